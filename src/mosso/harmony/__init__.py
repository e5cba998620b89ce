"""Harmony, gpt-oss's conversation format: tokenizer, conversation → token ids, token ids → messages."""

"""The demo model: data that we generate, a trainable gpt-oss, and its export as a checkpoint folder.

    examples → packing → feed (processes) → loop (network, optimizer) → export (config, tokenizer, weights)

Nobody imports this room; `python -m mosso.train` is its only door.
"""

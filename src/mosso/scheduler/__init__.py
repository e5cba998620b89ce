"""Requests, KV blocks, prefix cache and policy: plain state in, one step plan out. No torch."""

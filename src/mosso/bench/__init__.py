"""Benchmarks that print their floor first."""

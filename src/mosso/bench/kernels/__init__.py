"""Kernels alone, each case beside its floor."""

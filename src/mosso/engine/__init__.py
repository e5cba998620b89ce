"""Owns the device: request table, runner, sampler, overlap loop, and the process they live in."""

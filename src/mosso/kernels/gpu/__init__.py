"""The operations of gpt-oss in Triton: each kernel stands beside the torch twin that defines it."""

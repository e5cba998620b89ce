"""gpt-oss: configuration, the reference forward pass, the paged one, loading."""

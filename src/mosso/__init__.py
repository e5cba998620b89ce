"""mosso runs OpenAI's gpt-oss-20b and gpt-oss-120b, and nothing else."""

__version__ = "0.1.0"

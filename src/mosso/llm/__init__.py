"""The engine as a Python object: `from mosso import LLM`."""

from mosso.llm.answers import Answer, Call, Completion, Piece, Speed
from mosso.llm.llm import LLM

__all__ = ["LLM", "Answer", "Call", "Completion", "Piece", "Speed"]

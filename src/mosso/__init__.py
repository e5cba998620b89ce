"""mosso runs OpenAI's gpt-oss-20b and gpt-oss-120b, and nothing else.

from mosso import LLM
print(LLM("demo").chat("What is 2 + 3?"))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosso.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "__version__"]


def __getattr__(name: str) -> Any:
    """LLM is imported where it is asked for: a server or a command does not wait for it."""
    if name == "LLM":
        from mosso.llm import LLM

        return LLM
    raise AttributeError(f"module 'mosso' has no attribute {name!r}")

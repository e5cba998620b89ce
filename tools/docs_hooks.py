"""mkdocs: the HTTP reference is written from the server's own OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mosso.api.settings import ApiSettings
from mosso.checkpoint.models import find_model
from mosso.core.requests import EngineStats
from mosso.harmony.tokenizer import Tokenizer
from mosso.server.app import create_app
from mosso.server.settings import ServerSettings

MARK = "<!-- operations -->"


class _NoSource:
    """A token source that is never asked."""

    async def stats(self) -> EngineStats:
        return EngineStats()


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARK, "\n".join(reference())) if MARK in markdown else markdown


def reference() -> Iterator[str]:
    """Every operation by its tag: method, path, sentence, statuses."""
    source: Any = _NoSource()
    tokenizer = Tokenizer.from_folder(find_model("demo").folder)
    document = create_app(source, tokenizer, ServerSettings(api=ApiSettings("demo"))).openapi()
    tags: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            about = operation.get("description") or operation.get("summary", "")
            statuses = ", ".join(sorted(operation["responses"]))
            row = f"| `{method.upper()} {path}` | {' '.join(about.split())} | {statuses} |"
            tags.setdefault(operation.get("tags", ["other"])[0], []).append(row)
    for tag, rows in tags.items():
        yield f"\n## {tag.capitalize()}\n"
        yield "| operation | what it does | statuses |\n|---|---|---|"
        yield from rows
    yield "\n## Shapes\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        if not name.endswith("Request"):
            continue
        required = set(schema.get("required", ()))
        fields = ", ".join(
            f"**{field}**" if field in required else field for field in schema.get("properties", {})
        )
        yield f"`{name}`: {fields}\n"

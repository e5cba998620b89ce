"""Models from the Hugging Face hub, fetched only when a person asks: the one place that uses the network."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

from mosso.core.errors import UsageError

ALIASES = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}
PATTERNS = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
ORIGINAL_PATTERNS = ("original/*.safetensors", "original/*.json", "tokenizer.json", "generation_config.json")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_repo(name: str) -> str:
    """The hub id that a person means: an alias or an id itself. Raises UsageError for what is neither."""
    repo = ALIASES.get(name, name)
    if not _REPO_ID.fullmatch(repo):
        raise UsageError(f"{name!r} is no hub id: give owner/name, or one of {', '.join(ALIASES)}")
    return repo


def pull(
    name: str,
    destination: str | Path,
    *,
    revision: str | None = None,
    original: bool = False,
    workers: int = 8,
) -> Path:
    """Download what mosso reads of a repository into `destination`, and return that folder.

    original: the weights of its `original/` folder instead of the Hugging Face ones. Shows progress; a run
    that was stopped goes on where it was; complete files are not fetched again. The address comes from
    HF_ENDPOINT and the token from HF_TOKEN, as with every tool of the hub. Raises UsageError for a missing
    package, an unknown repository, one without weights, or a connection that fails.
    """
    hub = _hub()
    repo = resolve_repo(name)
    target = Path(destination)
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        hub.snapshot_download(
            repo,
            revision=revision,
            local_dir=target,
            allow_patterns=list(ORIGINAL_PATTERNS if original else PATTERNS),
            ignore_patterns=None if original else ["original/*", "metal/*"],
            max_workers=workers,
            library_name="mosso",
        )
    except errors.GatedRepoError as error:
        raise UsageError(f"{repo} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(f"the hub has no repository {repo}, or it is private (set HF_TOKEN)") from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{repo} has no revision {revision}") from error
    except Exception as error:  # the library's own, its transport's (which changes by version), the disk's
        raise UsageError(
            f"{repo} could not be downloaded ({_first_line(error)}); the same command goes on from here"
        ) from error
    weights = target / "original" if original else target
    if not any(weights.glob("*.safetensors")):
        raise UsageError(f"{repo} has no {'original/' if original else ''}*.safetensors")
    return target


def _hub() -> ModuleType:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UsageError("downloading needs the package huggingface_hub: pip install 'mosso[hub]'") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Models from the Hugging Face hub, fetched only when a person asks: the one place that uses the network.

huggingface_hub lists the files, finds the token, retries and draws the progress. Which bytes are there
already is kept here, because its own downloads start a file anew after the process was stopped: a file grows
as `NAME.DIGEST.part`, is checked against the hub's digest, and then takes its name.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any

from mosso.core.errors import UsageError

ALIASES = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json")
ORIGINAL_WEIGHTS = (*WEIGHTS, "dtypes.json")  # in original/
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. `digest`: a large file's SHA-256 (64 digits), else git's blob id (40)."""

    path: str
    size: int
    digest: str


def resolve_repo(name: str) -> str:
    """The hub id that a person means: an alias or an id itself. Raises UsageError for what is neither."""
    repo = ALIASES.get(name, name)
    if not _REPO_ID.fullmatch(repo):
        raise UsageError(f"{name!r} is no hub id: give owner/name, or one of {', '.join(ALIASES)}")
    return repo


def pull(name: str, destination: str | Path, *, revision: str | None = None, original: bool = False) -> Path:
    """Download what mosso reads of a repository into `destination`, and return that folder.

    original: the weights of its `original/` folder instead of the Hugging Face ones. Shows progress; a run
    that was stopped goes on at the byte where it was, and complete files are verified instead of fetched.
    The address comes from HF_ENDPOINT and the token from HF_TOKEN, as with every tool of the hub. Raises
    UsageError for a missing package, an unknown repository, one without weights, a damaged file or a failing
    connection.
    """
    repo, target = resolve_repo(name), Path(destination)
    hub = _hub()
    with _explained(repo, revision):
        info = hub.HfApi(library_name="mosso").model_info(repo, revision=revision, files_metadata=True)
        files = _wanted(info.siblings, original)
        if not any(file.path.endswith(".safetensors") for file in files):
            raise UsageError(f"{repo} has no {'original/' if original else ''}*.safetensors")
        for file in files:
            _fetch(hub.hf_hub_url(repo, file.path, revision=info.sha), file, target)
    return target


def _wanted(siblings: Any, original: bool) -> list[RemoteFile]:
    """The files that mosso reads, the small ones first."""
    files = []
    for sibling in siblings:
        folder, _, base = sibling.rfilename.rpartition("/")
        patterns: tuple[str, ...]
        if folder == "":
            patterns = COMPANIONS if original else (*COMPANIONS, *WEIGHTS)
        else:
            patterns = ORIGINAL_WEIGHTS if original and folder == "original" else ()
        if "\\" not in base and any(fnmatchcase(base, pattern) for pattern in patterns):
            digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            files.append(RemoteFile(sibling.rfilename, sibling.size, digest))
    return sorted(files, key=lambda file: file.size)


def _fetch(url: str, file: RemoteFile, target: Path) -> None:
    """Bring one file to its place, going on from a part that an earlier run left."""
    final = target / file.path
    if _is_whole(final, file):
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f"{final.name}.{file.digest[:12]}.part")
    for stale in set(final.parent.glob(f"{escape(final.name)}.*.part")) - {part}:  # of other versions
        stale.unlink()
    library = importlib.import_module("huggingface_hub.file_download")
    headers = importlib.import_module("huggingface_hub.utils").build_hf_headers(library_name="mosso")
    part.touch()
    with part.open("r+b") as stream:
        stream.truncate(min(part.stat().st_size, file.size))
        library.http_get(
            url,
            stream,
            resume_size=stream.seek(0, os.SEEK_END),
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.path,
        )
    if not _is_whole(part, file):
        part.unlink()
        raise UsageError(f"{file.path} arrived damaged and was thrown away; run the same command again")
    os.replace(part, final)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether `path` has exactly the content that the hub names."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    large = len(file.digest) == 64
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest() == file.digest


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except UsageError:
        raise
    except errors.GatedRepoError as error:
        raise UsageError(f"{repo} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(f"the hub has no repository {repo}, or it is private (set HF_TOKEN)") from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{repo} has no revision {revision}") from error
    except Exception as error:  # the library's own, its transport's (which changes by version), the disk's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{repo} could not be downloaded ({reason}); the same command goes on from here"
        ) from error


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UsageError("downloading needs the package huggingface_hub: pip install 'mosso[hub]'") from error

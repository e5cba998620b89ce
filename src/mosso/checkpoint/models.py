"""What the person means by MODEL."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mosso.core.errors import UsageError

DEMO = "demo"
FOLDER_VARIABLES = ("MOSSO_MODELS", "NIM_CACHE_PATH")
"""Either names the folder of pulled models."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint folder and the name that the API gives it."""

    name: str
    folder: Path


def find_model(text: str) -> Model:
    """`demo`, a folder, or a model that `mosso pull` has brought: 20b, 120b, a hub id. Reaches no network."""
    if text == DEMO:
        return Model("demo", Path(str(files("mosso"))) / "demo")
    folder = Path(text).expanduser()
    if folder.suffix == ".gguf":
        raise UsageError(f"{text}: GGUF files cannot be read; give a folder of safetensors")
    if folder.is_dir():
        return Model(folder.resolve().name, folder)
    if folder.exists():
        raise UsageError(f"{text} is a file; give the folder that holds config.json and the weights")
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", text):
        raise UsageError(f"no model {text!r}; did you mean http://{text}?")
    if not looks_like_hub_id(text):
        if os.sep in text:
            raise UsageError(f"there is no folder {text}")
        raise UsageError(
            f"no model {text!r}: give demo, 20b, 120b, a folder, or the hub id of a model that was pulled"
        )
    pulled = pulled_folder(text)
    if not pulled.is_dir():
        raise UsageError(f"{text} is not here; to download it: mosso pull {text}")
    return Model(text, pulled)


def looks_like_hub_id(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return text in ("20b", "120b") or bool(
        slash and owner and name and "/" not in name and owner[0] not in ".~"
    )


def models_folder() -> Path:
    """Where `mosso pull` puts models unless told otherwise; see FOLDER_VARIABLES."""
    told = next((os.environ[name] for name in FOLDER_VARIABLES if os.environ.get(name)), None)
    return Path(told).expanduser() if told else Path.home() / ".cache" / "mosso" / "models"


def pulled_folder(model_id: str) -> Path:
    from mosso.checkpoint.hub import resolve_repo

    return models_folder() / resolve_repo(model_id).replace("/", "--")

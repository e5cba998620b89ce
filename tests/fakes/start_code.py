"""Code of a test's own in the Python processes that it starts."""

from __future__ import annotations

import os
from pathlib import Path

ENGINE = "mosso.engine.process"


def at_start(folder: Path, module: str, code: str) -> str:
    """The PYTHONPATH under which processes of `module` (python -m) begin with `code`; it lies in `folder`."""
    only = f"import sys\nif {module!r} in sys.orig_argv:\n    exec({code!r})\n"
    (folder / "sitecustomize.py").write_text(only)
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))

"""The model's own `python`: code that it writes while it thinks, run in the sandbox."""

from __future__ import annotations

import logging

from mosso.harmony.conversation import ToolNamespace
from mosso.tools.sandbox import Sandbox, SandboxError
from mosso.tools.tool import Outcome, Session

logger = logging.getLogger("mosso.tools")

NAME = "python"
_ABOUT = (
    "Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. "
    "This tool should be used for internal reasoning, but not for code that is intended to be visible to the "
    "user (e.g. when creating plots, tables, or files).\n\n"
    "When you send a message containing Python code to python, it is run in a new process, and what it "
    "prints comes back to you, with the value of its last expression; it is stopped after {seconds:.0f} "
    "seconds. Nothing is kept between calls: send the whole code each time. There is no internet access, and "
    "there are no files; of packages beside the standard library there is numpy."
)


class PythonTool:
    """See tool.Builtin. Calls are independent of each other."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @property
    def namespace(self) -> ToolNamespace:
        return ToolNamespace(NAME, _ABOUT.format(seconds=self._sandbox.limits.seconds))

    def open(self) -> Session:
        return self

    async def run(self, recipient: str, text: str) -> Outcome:
        try:
            run = await self._sandbox.run(text)
        except (SandboxError, OSError) as error:
            logger.error("the sandbox failed: %s", error)
            return Outcome("The Python environment is not available now.", failed=True)
        lines = [run.output.rstrip("\n")] if run.output else []
        if run.problem is not None:
            lines.append(f"[{run.problem}]")
        elif not run.output:
            lines.append("[no output]")
        return Outcome("\n".join(lines), failed=run.problem is not None or run.exit_code != 0)

    async def close(self) -> None:
        """Nothing is open."""

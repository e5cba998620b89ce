"""Which registers a Hopper kernel overwrites while a wgmma may still read its weights from them.

PTX leaves undefined what a `wgmma.mma_async` computes whose registers of matrix A are written before a
`wgmma.wait_group` has waited for it. Triton 3.6 and 3.7 do that across the turns of a loop.
"""

from __future__ import annotations

import re

_REGISTERS = re.compile(r"%\w+")
_WGMMA = re.compile(r"wgmma\.mma_async\S* \{[^}]*\}, *(\{[^}]*\})?")
_WAIT = re.compile(r"wgmma\.wait_group\S* *(\d+)")
_WRITES = re.compile(r"(?:@!?%\w+\s+)?[a-z][\w.:]*\s+(\{[^}]*\}|%[\w|%]+)")
_NO_RESULT = ("st.", "red.", "bra", "bar.", "cp.async", "prefetch", "ret")


def overwritten_weights(ptx: str) -> set[str]:
    """Registers of matrix A written too early, in a straight run or in two turns of a loop."""
    lines = [line.split("//")[0].strip() for line in ptx.splitlines()]
    labels = {line[:-1]: place for place, line in enumerate(lines) if re.fullmatch(r"\$\w+:", line)}
    found = _overwritten(lines)
    for place, line in enumerate(lines):
        branch = re.search(r"\bbra(?:\.uni)?\s+(\$\w+);", line)
        if branch and labels[branch[1]] < place:
            body = lines[labels[branch[1]] : place]
            found |= _overwritten(body + body)
    return found


def _overwritten(lines: list[str]) -> set[str]:
    found: set[str] = set()
    groups: list[set[str]] = []  # committed and maybe under way, oldest first
    now: set[str] = set()
    for instruction in (part.strip() for line in lines for part in line.split(";")):
        if wgmma := _WGMMA.match(instruction):
            now |= set(_REGISTERS.findall(wgmma[1] or ""))
        elif instruction.startswith("wgmma.commit_group"):
            groups.append(now)
            now = set()
        elif wait := _WAIT.match(instruction):
            groups = groups[len(groups) - int(wait[1]) :] if len(groups) > int(wait[1]) else groups
        elif (write := _WRITES.match(instruction)) and not instruction.startswith(_NO_RESULT):
            found |= set(_REGISTERS.findall(write[1])) & set().union(now, *groups)
    return found

"""Many turns moved on at once.

The library moves all their forms on in one call and makes the masks in another. So the interpreter's lock is
let go of twice, not twice a turn: the thread that launches the model's products wants it too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from llguidance import LLExecutor

from mosso.core.constraints import Mask
from mosso.core.errors import EngineError
from mosso.grammar.thinking import HarmonyTurn, TurnForm


class Together:
    """Used by one thread at a time."""

    def __init__(self) -> None:
        # Forms of one schema share their lexer, and its lock: more threads would wait for each other.
        self._executor = LLExecutor(num_threads=1)

    def advance(self, turns: Sequence[HarmonyTurn], tokens: Sequence[int]) -> list[Mask | EngineError | None]:
        """As Constrainer.advance."""
        moving = [
            (turn.form, token)
            for turn, token in zip(turns, tokens, strict=True)
            if turn.form is not None and not turn.form.is_over
        ]
        if moving:
            self._executor.consume_token_par([(form.matcher, token) for form, token in moving])
        for turn, token in zip(turns, tokens, strict=True):
            turn.position.consume(token)
        found: dict[TurnForm | None, Mask | EngineError | None] = {
            form: _error(form.consumed) for form, _ in moving
        }
        going = [form for form, _ in moving if not form.is_over and found[form] is None]
        for form, mask in zip(going, self._masks(going), strict=True):
            found[form] = _error(form.check) or mask
        return [_next(turn, found.get(turn.form)) for turn in turns]

    def _masks(self, forms: Sequence[TurnForm]) -> list[memoryview]:
        if not forms:
            return []
        size = forms[0].mask_bytes
        memory = bytearray(size * len(forms))
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        places = [(form.matcher, place) for place, form in enumerate(forms)]
        self._executor.unsafe_compute_mask_ptr(places, address, size, len(forms))
        whole = memoryview(memory)
        return [whole[at : at + size] for at in range(0, len(memory), size)]


def _error(of: Callable[[], None]) -> EngineError | None:
    try:
        of()
    except EngineError as error:
        return error
    return None


def _next(turn: HarmonyTurn, formed: Mask | EngineError | None) -> Mask | EngineError | None:
    return formed if isinstance(formed, EngineError) else turn.mask_within(formed)

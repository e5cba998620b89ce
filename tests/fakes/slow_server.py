"""A server whose answers take a while, for tests that send signals.

slow_server.py DRAIN_SECONDS TOKENS [FILE]     with FILE an answer ends only once that file is there
"""

import asyncio
import logging
import sys
from collections import Counter
from pathlib import Path

from mosso_fakes import SETTINGS, ScriptedSource, harmony, small_tokenizer

from mosso.server.app import create_app
from mosso.server.run import serve
from mosso.server.settings import ServerSettings

HELD = Path(sys.argv[3]) if len(sys.argv) > 3 else None
passed: Counter[str] = Counter()  # events of each request


async def pause(request):
    await asyncio.sleep(0.01)
    passed[request.id] += 1
    while HELD is not None and passed[request.id] > 20 and not HELD.exists():
        await asyncio.sleep(0.01)


def main() -> None:
    tokenizer = small_tokenizer()
    source = ScriptedSource(
        lambda r: harmony(tokenizer, "<|channel|>final<|message|>" + "x" * int(sys.argv[2]))
    )
    source.gate = pause
    logging.basicConfig(level=logging.INFO)
    settings = ServerSettings(api=SETTINGS, drain_seconds=float(sys.argv[1]))
    serve(create_app(source, tokenizer, settings), port=0, on_start=lambda url: print(url, flush=True))
    print("aborted", len(source.aborted), flush=True)


if __name__ == "__main__":
    main()

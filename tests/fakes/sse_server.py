"""The least server that streams completions: what a load generator can take in, with nothing behind it.

    sse_server.py TOKENS_A_SECOND TOKENS     prints its URL; each answer has TOKENS events at that rate

With TOKENS_A_SECOND 0 events come as fast as they can be written. Events are chunked as uvicorn does it.
"""

from __future__ import annotations

import asyncio
import json
import sys

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(data: object) -> bytes:
    line = f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


def chunk(**fields: object) -> dict[str, object]:
    head = {"id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk"}
    return {**head, "created": 1795000000, "model": "fake", **fields}


def choice(delta: dict[str, str]) -> list[dict[str, object]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]


OPENING = event(chunk(choices=choice({"role": "assistant", "content": ""})))
TOKEN = event(chunk(choices=choice({"content": " word"})))


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float, tokens: int
) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET"):
        body = json.dumps({"data": [{"id": "fake"}]}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
    else:
        (length,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(HEAD + OPENING)
        due = asyncio.get_running_loop().time()
        for _ in range(tokens):
            writer.write(TOKEN)
            if rate:
                due += 1 / rate
                await asyncio.sleep(due - asyncio.get_running_loop().time())
            else:
                await writer.drain()
                await asyncio.sleep(0)
        usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
        writer.write(event(chunk(choices=[], usage=usage)) + event("[DONE]") + b"0\r\n\r\n")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(rate: float, tokens: int) -> None:
    server = await asyncio.start_server(lambda r, w: answer(r, w, rate, tokens), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2])))

"""Many clients at once, some of whom leave: the others are answered, and nothing is kept."""

from __future__ import annotations

import asyncio

from openai import AsyncOpenAI

CLIENTS = 64
SUMS = [(index * 7 % 900 + 10, index * 13 % 900 + 10) for index in range(CLIENTS)]


async def _talk(client: AsyncOpenAI, index: int) -> str | None:
    a, b = SUMS[index]
    stream = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": f"What is {a} + {b}?"}],
        temperature=0,
        stream=True,
    )
    text, pieces = "", 0
    async with stream:
        async for chunk in stream:
            pieces += 1
            if index % 3 == 0 and pieces == 5:
                return None  # hang up midway
            text += chunk.choices[0].delta.content or ""
    return None if index % 3 == 0 else text  # a server that is behind sends it in fewer pieces


async def _everyone(url: str) -> list[str | None]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=240) as client:
        return list(await asyncio.gather(*(_talk(client, index) for index in range(CLIENTS))))


def test_64_clients_of_whom_a_third_hang_up(demo) -> None:
    answers = asyncio.run(_everyone(demo.url))
    for index, (answer, (a, b)) in enumerate(zip(answers, SUMS, strict=True)):
        assert (answer is None) if index % 3 == 0 else answer and answer.endswith(f"= {a + b}."), answer
    assert demo.holds_nothing()

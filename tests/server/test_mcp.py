"""MCP tools in /v1/responses: real servers as processes, the openai package, a scripted model."""

import asyncio
import json
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import openai
import pytest
from mcp_paths import PATIENT, PROGRAM
from mosso_fakes import harmony, small_tokenizer
from tool_serving import served_with

from mosso.api.responses_toolset import Tools
from mosso.tools.mcp import Servers
from mosso.tools.mcp_config import StdioServer

TOKENIZER = small_tokenizer()
STDIO = {"box": StdioServer(sys.executable, (PROGRAM,))}
BOX = {"type": "mcp", "server_label": "box", "require_approval": "never"}
THINK = "<|channel|>analysis<|message|>step {}<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
FINAL = "<|channel|>final<|message|>{}<|return|>"
RESULT = re.compile(
    r"<\|start\|>functions\.(\w+) to=assistant<\|channel\|>commentary<\|message\|>(.*?)<\|end\|>", re.S
)


def results(prompt):
    return RESULT.findall(prompt)


def model(*calls, final=lambda seen: seen[-1][1] if seen else "alone"):
    """Makes these calls, one a turn with a thought before each, then says the last result."""

    def script(request):
        prompt = TOKENIZER.decode(request.prompt, control=True)
        seen = results(prompt)
        assert all(f"step {turn}<|end|>" in prompt for turn in range(len(seen))), "a thought was lost"
        if len(seen) == len(calls):
            return harmony(TOKENIZER, FINAL.format(final(seen)))
        name, arguments = calls[len(seen)]
        return harmony(TOKENIZER, THINK.format(len(seen)) + CALL.format(name, json.dumps(arguments)))

    return script


@asynccontextmanager
async def served(script, servers):
    async with served_with(script, Tools(servers=servers)) as server:
        try:
            yield server
        finally:
            if servers is not None:
                await servers.close()


@pytest.fixture(scope="module")
def mcp_url():
    with subprocess.Popen([sys.executable, PROGRAM, "--http"], stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/mcp"
        process.kill()


async def test_a_streamed_response_with_two_calls():
    """Order and names of all events, folded by the SDK; the model goes on with its thoughts in the prompt."""
    script = model(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    async with served(script, Servers(STDIO, limits=PATIENT)) as server:
        async with server.client.responses.stream(model="test", input="hi", tools=[BOX]) as stream:
            events = [event async for event in stream]
            answer = await stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert answer.output_text == "7"
        kinds = ["mcp_list_tools", "reasoning", "mcp_call", "reasoning", "mcp_call", "message"]
        assert [item.type for item in answer.output] == kinds
        listed, _, first, *_ = answer.output
        assert {"add", "boom"} <= {tool.name for tool in listed.tools}
        assert (first.name, first.server_label, first.output, first.error) == ("add", "box", "3", None)
        assert (json.loads(first.arguments), first.status) == ({"a": 1, "b": 2}, "completed")
        told = [event.type.removeprefix("response.") for event in events if event.type != "response.created"]
        assert told[1:5] == [
            "output_item.added",
            "mcp_list_tools.in_progress",
            "mcp_list_tools.completed",
            "output_item.done",
        ]
        of_call = [event for event in events if getattr(event, "item_id", None) == first.id]
        assert [event.type.removeprefix("response.") for event in of_call] == [
            "mcp_call.in_progress",
            *["mcp_call_arguments.delta"] * len([e for e in of_call if e.type.endswith("delta")]),
            "mcp_call_arguments.done",
            "mcp_call.completed",
        ]
        deltas = "".join(event.delta for event in of_call if event.type.endswith("delta"))
        assert deltas == first.arguments == of_call[-2].arguments
        prompts = [request.prompt for request in server.source.seen]
        assert all(later[: len(one)] == one for one, later in pairwise(prompts))
        assert answer.usage.input_tokens == sum(map(len, prompts))
        stored = await server.client.responses.retrieve(answer.id)
        assert stored.output_text == "7"
        assert [tool.type for tool in stored.tools] == ["mcp"]


async def test_a_server_of_the_requests_own(mcp_url):
    """By URL, once the operator lets it; its credentials are not told again; asked once a conversation."""
    script = model(("add", {"a": 1, "b": 2}))
    tool = BOX | {"server_url": mcp_url, "authorization": "s3cret", "headers": {"X-Key": "s3cret"}}
    async with served(script, Servers({}, (mcp_url,), PATIENT)) as server:
        answer = await server.client.responses.create(model="test", input="hi", tools=[tool])
        assert answer.output_text == "3"
        assert "s3cret" not in answer.model_dump_json()
        assert b"s3cret" not in server.store.records[answer.id].body
        server.source.script = lambda request: harmony(TOKENIZER, FINAL.format("again"))
        again = await server.client.responses.create(
            model="test", input="more", tools=[tool], previous_response_id=answer.id
        )
        assert [item.type for item in again.output] == ["message"]
        with pytest.raises(openai.BadRequestError, match=r"tools\[0\].server_url.*--mcp-allow-url"):
            await server.client.responses.create(
                model="test", input="hi", tools=[tool | {"server_url": "http://127.0.0.1:1/"}]
            )


@pytest.mark.parametrize("keep", ["store", "client"])
async def test_approval(keep):
    """The response ends in a request; what the client says is done in the next one."""
    script = model(("wipe_all", {}), final=lambda seen: seen[-1][1] or "nothing")
    tool = {"type": "mcp", "server_label": "box"}
    async with served(script, Servers(STDIO, limits=PATIENT)) as server:

        async def answered(approve):
            said = [{"role": "user", "content": "hi"}]
            first = await server.client.responses.create(model="test", input=said, tools=[tool])
            asked = first.output[-1]
            assert (asked.type, asked.name, asked.arguments) == ("mcp_approval_request", "wipe.all", "{}")
            word = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": approve}
            if keep == "store":
                return await server.client.responses.create(
                    model="test", input=[word], tools=[tool], previous_response_id=first.id
                )
            said += [item.model_dump(exclude_none=True) for item in first.output]
            return await server.client.responses.create(model="test", input=[*said, word], tools=[tool])

        done = await answered(True)
        call = done.output[0]
        assert (call.type, call.output, call.name) == ("mcp_call", "wiped", "wipe.all")
        assert call.approval_request_id
        assert done.output_text == "wiped"
        refused = await answered(False)
        assert [item.type for item in refused.output] == ["message"]
        assert "does not want" in refused.output_text


async def test_approval_is_asked_for_where_the_filter_says():
    wanted = {"never": {"tool_names": ["add"]}}
    async with served(
        model(("add", {"a": 1, "b": 1}), ("boom", {})), Servers(STDIO, limits=PATIENT)
    ) as server:
        answer = await server.client.responses.create(
            model="test", input="hi", tools=[BOX | {"require_approval": wanted}]
        )
        assert [i.type for i in answer.output][-3:] == ["mcp_call", "reasoning", "mcp_approval_request"]
        unknown = {"type": "mcp_approval_response", "approval_request_id": "mcpr_none", "approve": True}
        with pytest.raises(openai.BadRequestError, match="mcpr_none"):
            await server.client.responses.create(model="test", input=[unknown], tools=[BOX])


@pytest.mark.parametrize(
    ("tool", "kind"), [("boom", "mcp_tool_execution_error"), ("die", "mcp_protocol_error")]
)
async def test_an_error_is_told_and_the_model_goes_on(tool, kind):
    async with served(model((tool, {})), Servers(STDIO, limits=PATIENT)) as server:
        async with server.client.responses.stream(model="test", input="hi", tools=[BOX]) as stream:
            events = [event.type async for event in stream]
            answer = await stream.get_final_response()
        call = next(item for item in answer.output if item.type == "mcp_call")
        assert (call.status, call.error.type, call.output) == ("failed", kind, None)
        assert "response.mcp_call.failed" in events
        assert answer.status == "completed"
        assert tool in answer.output_text or "box" in answer.output_text


async def test_a_hanging_server_ends_in_an_error():
    async with served(model(("hang", {})), Servers(STDIO, limits=replace(PATIENT, call_seconds=1))) as server:
        answer = await server.client.responses.create(model="test", input="hi", tools=[BOX])
        assert "no answer in 1 s" in answer.output_text


async def test_a_server_that_is_not_there():
    servers = Servers({"box": StdioServer("/no/such/program")})
    async with (
        served(model(), servers) as server,
        server.client.responses.stream(model="test", input="hi", tools=[BOX]) as stream,
    ):
        events = [event.type async for event in stream]
        answer = await stream.get_final_response()
    assert "response.mcp_list_tools.failed" in events
    assert "box" in answer.output[0].error
    assert answer.output_text == "alone"


async def test_the_limit_of_calls():
    """The turn after the last allowed call cannot make another: its constraint has no such call, and a model
    that calls all the same is not obeyed."""
    async with served(model(*[("add", {"a": 1, "b": 1})] * 3), Servers(STDIO, limits=PATIENT)) as server:
        answer = await server.client.responses.create(model="test", input="hi", tools=[BOX], max_tool_calls=2)
        assert [item.type for item in answer.output].count("mcp_call") == 2
        assert answer.status == "completed"
        free, last = server.source.seen[-2:]
        assert free.constraint is None or free.constraint.calls
        assert last.constraint is not None
        assert last.constraint.calls == ()


async def test_a_long_result_is_cut_to_the_room_that_is_left():
    async with served(
        model(("long", {}), final=lambda seen: str(len(seen[-1][1]))), Servers(STDIO)
    ) as server:
        server.source.max_context = 20_000
        answer = await server.client.responses.create(model="test", input="hi", tools=[BOX])
        assert 4_000 < int(answer.output_text) < 10_100


async def test_no_room_for_another_turn():
    async with served(model(("add", {"a": 1, "b": 1})), Servers(STDIO, limits=PATIENT)) as server:
        answer = await server.client.responses.create(
            model="test",
            input="hi",
            tools=[BOX],
            max_output_tokens=len(
                harmony(TOKENIZER, THINK.format(0) + CALL.format("add", '{"a": 1, "b": 1}'))
            ),
        )
        assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert answer.output[-1].output == "2"


async def test_functions_beside_a_servers_tools():
    """A turn that calls both runs what is this server's and leaves the rest to the client; a name that both
    have goes to the client's."""
    mine = {
        "type": "function",
        "name": "add",
        "parameters": {"type": "object", "properties": {}},
        "strict": False,
    }
    both = CALL.format("box__add", '{"a":1,"b":1}').replace("<|call|>", "<|end|><|start|>assistant")

    def script(request):
        seen = dict(results(TOKENIZER.decode(request.prompt, control=True)))
        if "add" in seen:
            return harmony(TOKENIZER, FINAL.format(f"{seen['box__add']} and {seen['add']}"))
        return harmony(TOKENIZER, both + CALL.format("add", "{}"))

    async with served(script, Servers(STDIO, limits=PATIENT)) as server:
        first = await server.client.responses.create(model="test", input="hi", tools=[mine, BOX])
        assert [item.type for item in first.output] == ["mcp_list_tools", "mcp_call", "function_call"]
        result = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "mine"}
        answer = await server.client.responses.create(
            model="test", input=[result], tools=[mine, BOX], previous_response_id=first.id
        )
        assert answer.output_text == "2 and mine"


async def test_in_the_background_and_taken_up_again():
    script = model(("add", {"a": 1, "b": 2}))
    async with served(script, Servers(STDIO, limits=PATIENT)) as server:
        started = await server.client.responses.create(model="test", input="hi", tools=[BOX], background=True)
        while (answer := await server.client.responses.retrieve(started.id)).status != "completed":
            await asyncio.sleep(0.01)
        assert answer.output_text == "3"
        stream = await server.client.responses.retrieve(started.id, stream=True, starting_after=5)
        events = [event async for event in stream]
        assert events[0].sequence_number == 6
        assert "response.mcp_call.completed" in [event.type for event in events]


async def test_a_client_that_leaves_during_a_call():
    """The call is given up, nothing is stored, and the server's program serves the next response."""
    async with served(model(("hang", {})), Servers(STDIO, limits=PATIENT)) as server:
        async with server.client.responses.stream(model="test", input="hi", tools=[BOX]) as stream:
            async for event in stream:
                if event.type == "response.mcp_call_arguments.done":
                    break
        server.source.script = model(("add", {"a": 1, "b": 1}))
        answer = await server.client.responses.create(model="test", input="hi", tools=[BOX])
        assert answer.output_text == "2"


BAD = [
    ([BOX, BOX], r"tools\[1\].server_label"),
    ([BOX | {"server_label": "other"}], r"tools\[0\].server_label.*known: box"),
    ([BOX | {"authorization": "x"}], r"tools\[0\].headers"),
    ([BOX | {"connector_id": "connector_gmail"}], r"connector_id"),
    ([BOX | {"require_approval": "sometimes"}], "require_approval"),
    ([BOX | {"more": 1}], "more"),
]


async def test_mistakes_are_named():
    async with served(model(), Servers(STDIO, limits=PATIENT)) as server:
        for tools, complaint in BAD:
            with pytest.raises(openai.BadRequestError, match=complaint):
                await server.client.responses.create(model="test", input="hi", tools=tools)
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            await server.client.responses.create(
                model="test", input="hi", tools=[BOX], tool_choice={"type": "mcp", "server_label": "no"}
            )
    async with served(model(), None) as server:
        with pytest.raises(openai.BadRequestError, match="--mcp-config"):
            await server.client.responses.create(model="test", input="hi", tools=[BOX])


async def test_a_forced_call_is_forced_once():
    async with served(model(("add", {"a": 1, "b": 1})), Servers(STDIO, limits=PATIENT)) as server:
        choice = {"type": "mcp", "server_label": "box", "name": "add"}
        await server.client.responses.create(model="test", input="hi", tools=[BOX], tool_choice=choice)
        first, second = server.source.seen
        assert first.constraint.answer is None
        assert [call.recipient for call in first.constraint.calls] == ["functions.add"]
        assert second.constraint is None or second.constraint.answer is not None
        unseen = await server.client.responses.create(
            model="test", input="hi", tools=[BOX], tool_choice="none"
        )
        assert "namespace functions" not in TOKENIZER.decode(server.source.seen[-1].prompt, control=True)
        assert unseen.status == "completed"


async def test_only_allowed_tools_are_shown():
    async with served(model(), Servers(STDIO, limits=PATIENT)) as server:
        server.source.script = lambda request: harmony(TOKENIZER, FINAL.format("x"))
        for allowed in (["add"], {"tool_names": ["add", "wipe.all"], "read_only": False}):
            tool = BOX | {"allowed_tools": allowed, "server_description": "A box."}
            answer = await server.client.responses.create(model="test", input="hi", tools=[tool])
            prompt = TOKENIZER.decode(server.source.seen[-1].prompt, control=True)
            assert "// box: A box." in prompt
            assert "type boom" not in prompt
            assert "type add = (_: {" in prompt
        assert answer.output[0].tools[0].name == "add"

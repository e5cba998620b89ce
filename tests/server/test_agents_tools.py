"""The openai-agents package with tools that the server runs: hosted MCP with approval, and code."""

import sys

import agents
import pytest
from mcp_paths import PATIENT, PROGRAM
from mosso_fakes import harmony, small_tokenizer
from tool_serving import served_with

from mosso.api.responses_toolset import Tools
from mosso.harmony.conversation import ToolNamespace
from mosso.tools.mcp import Servers
from mosso.tools.mcp_config import StdioServer
from mosso.tools.tool import Outcome

TOKENIZER = small_tokenizer()
FINAL = "<|channel|>final<|message|>{}<|return|>"


class Six:
    """A python that knows one number."""

    namespace = ToolNamespace("python", "Runs code.")

    def open(self):
        return self

    async def run(self, recipient, text):
        return Outcome("6")

    async def close(self):
        pass


def play(request):
    """Adds with the server's tool, runs code, and tells what both gave."""
    prompt = TOKENIZER.decode(request.prompt, control=True)
    if "<|start|>functions.add to=assistant<|channel|>commentary<|message|>3<|end|>" not in prompt:
        return harmony(
            TOKENIZER,
            '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a":1,"b":2}<|call|>',
        )
    if "<|start|>python to=assistant<|channel|>analysis<|message|>6<|end|>" not in prompt:
        return harmony(TOKENIZER, "<|channel|>analysis to=python code<|message|>1 + 5<|call|>")
    return harmony(TOKENIZER, FINAL.format("3 and 6"))


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_agent_with_the_servers_tools(streamed):
    asked = []

    def approve(request):
        asked.append(request.data.name)
        return {"approve": True}

    servers = Servers({"box": StdioServer(sys.executable, (PROGRAM,))}, limits=PATIENT)
    agents.set_tracing_disabled(True)
    async with served_with(play, Tools(servers=servers, python=Six())) as server:
        agent = agents.Agent(
            name="a",
            model=agents.OpenAIResponsesModel("test", server.client),
            tools=[
                agents.HostedMCPTool(
                    tool_config={
                        "type": "mcp",
                        "server_label": "box",
                        "allowed_tools": ["add"],
                        "require_approval": "always",
                    },
                    on_approval_request=approve,
                ),
                agents.CodeInterpreterTool(
                    tool_config={"type": "code_interpreter", "container": {"type": "auto"}}
                ),
                agents.WebSearchTool(),
            ],
        )
        try:
            if streamed:
                result = agents.Runner.run_streamed(agent, "hi")
                kinds = [event.type async for event in result.stream_events()]
                assert "raw_response_event" in kinds
            else:
                result = await agents.Runner.run(agent, "hi")
        finally:
            await servers.close()
    assert result.final_output == "3 and 6"
    assert asked == ["add"]

"""The model's own browser in /v1/responses: golden tokens, events, citations."""

import json

import openai
import pytest
from browser_fakes import FakeBackend
from mosso_fakes import harmony, small_tokenizer
from tool_serving import served_with

from mosso.api.responses_toolset import Tools
from mosso.tools.browser import Browser

TOKENIZER = small_tokenizer()
TOOL = {"type": "web_search"}
CALL = "<|channel|>analysis to=browser.{} code<|message|>{}<|call|>"
FINAL = "<|channel|>final<|message|>{}<|return|>"
STEPS = [("search", {"query": "news"}), ("open", {"id": 0}), ("find", {"pattern": "first"})]
ANSWER = "New 【1†L2】, and 【7†L1】."


def script(request):
    prompt = TOKENIZER.decode(request.prompt, control=True)
    done = prompt.rpartition("<|start|>user")[2].count(" to=assistant<|channel|>analysis")
    if done == len(STEPS):
        return harmony(TOKENIZER, FINAL.format(ANSWER))
    function, arguments = STEPS[done]
    return harmony(TOKENIZER, CALL.format(function, json.dumps(arguments)))


async def test_a_streamed_answer_with_its_sources():
    async with served_with(script, Tools(browser=Browser(FakeBackend()))) as server:
        async with server.client.responses.stream(model="test", input="hi", tools=[TOOL]) as stream:
            events = [event async for event in stream]
            answer = await stream.get_final_response()
        searched, opened, found, message = answer.output
        assert (searched.action.type, searched.action.query) == ("search", "news")
        assert [source.url for source in searched.action.sources] == [
            "https://a.example/news",
            "https://b.example/",
        ]
        assert (opened.action.type, opened.action.url) == ("open_page", "https://a.example/news")
        assert (found.action.type, found.action.pattern) == ("find_in_page", "first")
        assert found.action.url == "https://a.example/news"
        (citation,) = message.content[0].annotations
        text = message.content[0].text
        assert text == ANSWER
        assert text[citation.start_index : citation.end_index] == "【1†L2】"
        assert (citation.type, citation.url, citation.title) == (
            "url_citation",
            "https://a.example/news",
            "The News",
        )
        told = [event.type.removeprefix("response.") for event in events]
        assert "output_text.annotation.added" in told
        of_call = [event for event in events if getattr(event, "item_id", None) == searched.id]
        assert [event.type.removeprefix("response.web_search_call.") for event in of_call] == [
            "in_progress",
            "searching",
            "completed",
        ]
        prompts = [TOKENIZER.decode(request.prompt, control=True) for request in server.source.seen]
        assert "# Tools\n\n## browser\n\n// Tool for browsing.\n" in prompts[0]
        result = "<|start|>browser.search to=assistant<|channel|>analysis<|message|>[0] Search: news\n"
        assert prompts[1].startswith(
            prompts[0] + CALL.format("search", json.dumps({"query": "news"})) + result
        )
        stored = await server.client.responses.retrieve(answer.id)
        assert stored.output[3].content[0].annotations[0].url == citation.url
        again = await server.client.responses.create(
            model="test", input="more", tools=[TOOL], previous_response_id=answer.id
        )
        assert again.output_text == ANSWER


async def test_a_search_beside_a_function_is_seen_again():
    """The client's call comes back with the search before it: what the model read is in the prompt."""
    mine = {"type": "function", "name": "f", "parameters": None, "strict": False}

    def both(request):
        prompt = TOKENIZER.decode(request.prompt, control=True)
        if "mine" in prompt:
            return harmony(TOKENIZER, FINAL.format("done"))
        if "[0] Search: news" in prompt:
            return harmony(
                TOKENIZER, "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
            )
        return harmony(TOKENIZER, CALL.format("search", '{"query": "news"}'))

    async with served_with(both, Tools(browser=Browser(FakeBackend()))) as server:
        first = await server.client.responses.create(model="test", input="hi", tools=[mine, TOOL])
        result = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "mine"}
        said = [{"role": "user", "content": "hi"}, *(i.model_dump(exclude_none=True) for i in first.output)]
        for given in ({"input": [*said, result]}, {"input": [result], "previous_response_id": first.id}):
            answer = await server.client.responses.create(model="test", tools=[mine, TOOL], **given)
            assert answer.output_text == "done"
            prompt = TOKENIZER.decode(server.source.seen[-1].prompt, control=True)
            assert "to=browser.search<|channel|>analysis code<|message|>" in prompt
            assert "[0] Search: news" in prompt


async def test_fields_of_the_request():
    async with served_with(script, Tools(browser=Browser(FakeBackend()))) as server:
        tool = TOOL | {"search_context_size": "low", "filters": {"allowed_domains": ["B.example"]}}
        answer = await server.client.responses.create(
            model="test", input="hi", tools=[tool], tool_choice={"type": "web_search_preview"}
        )
        searched, opened, *_ = answer.output
        assert [source.url for source in searched.action.sources] == ["https://b.example/"]
        assert opened.action.url == "https://b.example/"
        recipients = [call.recipient for call in server.source.seen[0].constraint.calls]
        assert recipients == ["browser.search", "browser.open", "browser.find"]
        with pytest.raises(openai.BadRequestError, match=r"tools\[1\]"):
            await server.client.responses.create(model="test", input="hi", tools=[TOOL, TOOL])


async def test_switched_off_it_is_left_out():
    async with served_with(lambda request: harmony(TOKENIZER, FINAL.format("x")), Tools()) as server:
        answer = await server.client.responses.create(
            model="test", input="hi", tools=[TOOL | {"user_location": {"type": "approximate"}}]
        )
        assert answer.tools == []
        assert "browser" not in TOKENIZER.decode(server.source.seen[0].prompt)

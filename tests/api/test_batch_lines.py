"""Lines of batch files: cut anywhere, checked whatever they hold, written so that they can be read."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosso.api import batch_lines
from mosso.api.batch_lines import (
    LineChecker,
    LineError,
    LineSplitter,
    failure_line,
    read_line,
    result_line,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def mostly(right, wrong):
    """So that lines that are right come often, and with one mistake."""
    return st.integers(0, 7).flatmap(lambda turn: wrong if turn == 0 else right)


FIELDS = {
    "custom_id": mostly(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "x" * 513]) | JSON),
    "method": mostly(st.just("POST"), st.just("GET") | JSON),
    "url": mostly(st.just("/v1/completions"), st.just("/v1/responses") | JSON),
    "body": mostly(
        st.fixed_dictionaries({}, optional={"model": st.just("m") | JSON, "stream": JSON}), st.none() | JSON
    ),
}
OBJECTS = st.fixed_dictionaries(FIELDS) | st.fixed_dictionaries({}, optional=FIELDS)


def is_right(value, earlier):
    """The rules, said again: what the validator lets pass."""
    return (
        isinstance(value.get("custom_id"), str)
        and 1 <= len(value["custom_id"]) <= 512
        and value["custom_id"] not in earlier
        and value.get("method") == "POST"
        and value.get("url") == "/v1/completions"
        and isinstance(value.get("body"), dict)
        and (not isinstance(value["body"].get("model"), str) or value["body"]["model"] == "m")
        and not value["body"].get("stream")
    )


def is_json(value):
    """json writes numbers that are none."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def checker(**fields):
    return LineChecker("/v1/completions", ("m",), **({"most": 1000, "longest": 1 << 20} | fields))


@given(st.lists(OBJECTS, min_size=1, max_size=8))
def test_the_validator_finds_exactly_what_is_wrong(values):
    checked, earlier, wrong = checker(), set(), []
    for number, value in enumerate(values, 1):
        checked.see(number, json.dumps(value).encode())
        if not (is_json(value) and is_right(value, earlier)):
            wrong.append(number)
        if isinstance(value.get("custom_id"), str) and is_json(value):
            with suppress(LineError):
                earlier.add(read_line(json.dumps(value).encode()).custom_id)
    checked.finish()
    assert [problem.line for problem in checked.problems] == wrong
    assert checked.total == len(values)


@given(st.binary(max_size=100))
def test_a_strangers_line_is_a_request_or_a_line_error(text):
    problem = None
    try:
        read_line(text)
    except LineError as error:
        problem = error.problem
    assert problem is None or problem.code == "invalid_json_line" or problem.param


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(1, 30), min_size=1), st.integers(1, 30))
def test_lines_do_not_depend_on_the_pieces(lines, sizes, longest):
    whole = b"\n".join(lines)
    splitter, found, place, turn = LineSplitter(longest), [], 0, 0
    while place < len(whole):
        size = sizes[turn % len(sizes)]
        found += splitter.feed(whole[place : place + size])
        place, turn = place + size, turn + 1
    found += splitter.close()
    expected = [
        (number, line if len(line) <= longest else None)
        for number, line in enumerate(whole.split(b"\n"), 1)
        if len(line) > longest or line.strip()
    ]
    assert found == expected


def test_a_mark_of_byte_order_is_no_part_of_a_line():
    splitter = LineSplitter(100)
    assert [*splitter.feed(b"\xef\xbb\xbf{}\r\n"), *splitter.close()] == [(1, b"{}\r")]


def test_a_file_of_mistakes_is_not_read_to_its_end():
    checked = checker(most=batch_lines.MOST_ERRORS + 10)
    for number in range(batch_lines.MOST_ERRORS + 5):
        checked.see(number + 1, None)
    assert checked.is_full
    assert len(checked.problems) == batch_lines.MOST_ERRORS


@given(st.text())
def test_results_are_json_lines(custom_id):
    try:
        custom_id.encode()
    except UnicodeEncodeError:
        return
    answered = result_line(custom_id, status=200, body=b'{"a": 1}')
    assert answered.count(b"\n") == 1
    row = json.loads(answered)
    assert row["custom_id"] == custom_id
    assert row["response"]["body"] == {"a": 1}
    assert row["error"] is None
    row = json.loads(failure_line(custom_id, "batch_expired", "late"))
    assert (row["custom_id"], row["response"]) == (custom_id, None)
    assert row["error"] == {"code": "batch_expired", "message": "late"}


def test_an_identity_may_be_any_text():
    read = read_line('{"custom_id": "ü\\u2028", "method": "POST", "url": "/x", "body": {}}'.encode())
    assert read.custom_id == "ü\u2028"
    with pytest.raises(LineError):
        read_line(b'{"custom_id": "\\ud800", "method": "POST", "url": "/x", "body": {}}')

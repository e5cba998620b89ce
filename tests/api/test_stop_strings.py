from hypothesis import given
from hypothesis import strategies as st

from mosso.api.stop_strings import StopStrings

TEXT = st.text("abc", max_size=12)


def expected(text: str, stops: list[str]) -> tuple[str, str]:
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], text[min(starts) : end]
    return text, ""


@given(TEXT, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_same_result_for_every_split(text, stops, data):
    machine = StopStrings(stops)
    shown, rest = "", text
    while rest and not machine.matched:
        size = data.draw(st.integers(1, len(rest)))
        shown += machine.feed(rest[:size])
        rest = rest[size:]
    shown += machine.flush()
    assert (shown, machine.matched) == expected(text, stops)


def test_holds_back_only_what_may_become_a_stop():
    machine = StopStrings(["END"])
    assert machine.feed("the E") == "the "
    assert machine.feed("N") == ""
    assert machine.feed("!") == "EN!"
    assert machine.feed("x ENDED") == "x "
    assert machine.matched


def test_without_stops_everything_passes():
    assert StopStrings(()).feed("abc") == "abc"

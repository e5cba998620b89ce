from mosso.api.thoughts import ENTRY_BYTES, Thought, ThoughtStore, joined
from mosso.harmony.conversation import Channel


def thought(text: str) -> tuple[Thought, ...]:
    return (Thought(Channel.ANALYSIS, text),)


def test_namespaces_are_apart():
    store = ThoughtStore(10, 10_000)
    store.put("a", "call_1", thought("mine"))
    assert store.get("a", "call_1") == thought("mine")
    assert store.get("b", "call_1") == ()


def test_the_least_recently_used_goes_first():
    store = ThoughtStore(2, 10_000)
    store.put("", "one", thought("1"))
    store.put("", "two", thought("2"))
    assert store.get("", "one")
    store.put("", "three", thought("3"))
    assert store.get("", "one")
    assert not store.get("", "two")
    assert len(store) == 2


def test_bytes_are_bounded_and_given_back():
    store = ThoughtStore(100, 3 * ENTRY_BYTES)
    store.put("", "big", thought("x" * 4 * ENTRY_BYTES))
    assert len(store) == 0
    for _ in range(10):  # the same entry again takes no more room
        store.put("", "same", thought("é" * 10))
    store.put("", "other", thought("y"))
    assert store.get("", "same")
    assert store.get("", "other")


def test_joined_is_what_the_client_saw():
    both = (*thought("a"), Thought(Channel.COMMENTARY, "b"), *thought("c"))
    assert joined(both, Channel.ANALYSIS) == "a\n\nc"

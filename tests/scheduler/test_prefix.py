from hypothesis import given, settings
from hypothesis import strategies as st

from mosso.scheduler.prefix import extend_keys

tokens = st.lists(st.integers(0, 3), max_size=12)
salts = st.sampled_from(["", "a", "ä", "\ud800"])


def keys_of(salt, tokens, page_size):
    keys = []
    extend_keys(keys, salt, tokens, page_size)
    return keys


@given(salts, tokens, salts, tokens, st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_keys_are_equal_exactly_where_salt_and_all_tokens_before_are(salt_a, a, salt_b, b, size):
    keys_a, keys_b = keys_of(salt_a, a, size), keys_of(salt_b, b, size)
    assert (len(keys_a), len(keys_b)) == (len(a) // size, len(b) // size)
    for i, key in enumerate(keys_a):
        for j, other in enumerate(keys_b):
            same = i == j and salt_a == salt_b and a[: (i + 1) * size] == b[: (j + 1) * size]
            assert (key == other) == same


@given(salts, tokens, st.integers(0, 12), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_keys_grow_with_the_tokens(salt, tokens, cut, size):
    keys = keys_of(salt, tokens[:cut], size)
    extend_keys(keys, salt, tokens, size)
    assert keys == keys_of(salt, tokens, size)

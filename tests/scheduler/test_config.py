import pytest

from mosso.core.errors import UsageError


@pytest.mark.parametrize(
    "name",
    [
        *("page_size", "full_pages", "window_pages", "window", "max_rows", "max_context"),
        *("token_budget", "prefill_budget"),
    ],
)
def test_a_size_of_nothing_is_refused_by_name(make_config, name):
    with pytest.raises(UsageError, match=f"{name} must be at least 1, not 0"):
        make_config(**{name: 0})


def test_the_window_pool_must_hold_one_window_at_any_alignment(make_config):
    assert make_config(page_size=4, window=8, window_pages=3)
    with pytest.raises(UsageError, match=r"window_pages must be at least 3 .* not 2"):
        make_config(page_size=4, window=8, window_pages=2)


def test_a_context_is_no_longer_than_the_full_pool(make_config):
    assert make_config(full_pages=64, max_context=100).context == 100
    assert make_config(full_pages=20, max_context=100).context == 80


def test_the_first_window_page_is_the_one_that_the_window_begins_in(make_config):
    config = make_config(page_size=4, window=8)  # position 11 reads 4 .. 11, position 12 reads 5 .. 12
    assert [config.first_window_page(p) for p in (0, 7, 10, 11, 14, 15)] == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("window", [1, 2, 5, 8, 128])
@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_no_alignment_needs_more_window_pages_than_the_bound(make_config, page_size, window, chunk):
    config = make_config(page_size=page_size, window=window, window_pages=1000)
    needs = [
        config.pages(start + chunk) - config.first_window_page(start)
        for start in range(window + 2 * page_size)
    ]
    assert max(needs) <= config.window_bound(chunk)

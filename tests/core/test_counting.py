"""Numbers of things in sentences."""

from mosso.core.counting import counted


def test_one_is_singular():
    assert [counted(n, "step") for n in range(3)] == ["0 steps", "1 step", "2 steps"]
    assert [counted(n, "batch", "batches") for n in (1, 2)] == ["1 batch", "2 batches"]

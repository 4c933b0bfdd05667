"""Work ahead in a thread: order, depth, errors, and an end without leftovers."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from mdr_dist.data.prefetch import prefetch


def numbers(count: int, made: list[int]) -> Generator[int, None, None]:
    try:
        for number in range(count):
            made.append(number)
            yield number
    finally:
        made.append(-1)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_order(depth: int) -> None:
    made: list[int] = []
    assert list(prefetch(numbers(50, made), depth)) == list(range(50))
    assert made == [*range(50), -1]


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made: list[int] = []
    waiting = threading.Event()

    def watched() -> Generator[int, None, None]:
        for number in range(10):
            if number == 4:  # 0 taken, 1 and 2 wait, 3 is in the thread's hands: 4 must not be asked for
                waiting.set()
            made.append(number)
            yield number

    items = prefetch(watched(), 2)
    assert next(items) == 0
    assert not waiting.wait(0.3)
    assert made[-1] <= 3
    items.close()  # type: ignore[attr-defined]


def test_an_error_comes_at_its_place() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        yield 2
        raise LookupError("row 3")

    got: list[int] = []
    with pytest.raises(LookupError, match="row 3"):
        for item in prefetch(failing(), 8):
            got.append(item)
    assert got == [1, 2]


def test_closing_ends_the_thread_and_the_items() -> None:
    made: list[int] = []
    source = numbers(1000, made)  # held here, so that only closing ends it
    items = prefetch(source, 1)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert made[-1] == -1 and len(made) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_a_collection_in_another_thread_waits_for_nothing() -> None:
    """Such as in the thread that answers what the items wait for: it would wait for itself."""
    answered = threading.Event()

    def asking() -> Generator[int, None, None]:
        yield 1
        assert answered.wait(20)
        yield 2

    items = prefetch(asking(), 1)
    assert next(items) == 1
    collecting = threading.Thread(target=items.close)  # type: ignore[attr-defined]
    collecting.start()
    collecting.join(10)
    stuck = collecting.is_alive()
    answered.set()
    collecting.join()
    assert not stuck

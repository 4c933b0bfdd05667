"""Work ahead in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def prefetch(items: Generator[T, None, None], depth: int) -> Iterator[T]:
    """The items, made up to `depth` ahead in a thread; in the caller's own thread for `depth` 0.

    An error among the items is raised here, at its place in their order. The thread starts with the first item asked
    for and ends with the iterator: when it is used up, closed or garbage collected.
    """
    if depth == 0:
        yield from items
        return
    channel = _Channel[T](depth)
    caller = threading.current_thread()
    thread = threading.Thread(target=_fill, args=(items, channel), name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := channel.take()) is not None:
            yield item
    finally:
        channel.close()
        if threading.current_thread() is caller:  # a garbage collection may run in any, such as one that this waits for
            thread.join()


class _Channel(Generic[T]):
    """At most `depth` items on their way from one thread to another."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Hand an item over, waiting for room; false when nobody wants any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if not self._closed:
                self._items.append(item)
            self._changed.notify_all()
            return not self._closed

    def take(self) -> T | None:
        """The next item, `None` after the last; raises the error that ended them."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items))
            self._changed.notify_all()
            if self._items:
                return self._items.popleft()
            if self._error is not None:
                raise self._error
            return None

    def close(self, error: BaseException | None = None) -> None:
        """Say that no item follows, or that none is wanted."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()


def _fill(items: Generator[T, None, None], channel: _Channel[T]) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not channel.put(item):
                break
    except BaseException as raised:  # whatever it is, the consumer must see it
        error = raised
    items.close()
    channel.close(error)

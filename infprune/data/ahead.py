"""The next batches are made by a thread while the last one is used."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
AHEAD = 2  # batches
_END = object()


def ahead(items: Iterable[T], count: int = AHEAD) -> Iterator[T]:
    """Yield the items in their order; one thread draws up to `count` of them before they are asked for.

    What the items raise comes at their place. Whoever leaves early waits for the one that is being made; the thread
    never outlives this.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        waiting = deque(pool.submit(next, source, _END) for _ in range(count))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)

"""Results in the order of their questions, while a bounded number of threads works ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    call: Callable[[Item], Result], items: Iterable[Item], n_threads: int, n_ahead: int
) -> Iterator[Result]:
    """Yield `call(item)` for each item, in order; at most `n_ahead` are begun and not yielded.

    The first failure, in that order, is raised. Whoever stops early closes the iterator: what was
    not begun never is, and what runs is not waited for.
    """
    pool = ThreadPoolExecutor(n_threads)
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(call, item))
            if len(begun) >= n_ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

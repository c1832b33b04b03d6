"""Work spread over cores. Compiled kernels let go of the interpreter, so threads are enough."""

import functools
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """Call a function for each item on up to `threads` cores; results in order, one of the errors raised.

    The calling thread does its share: it already has a core, so that the others are given another one.

    Examples
    --------
    >>> run(abs, [-1, 2, -3], threads=2)
    [1, 2, 3]
    """
    work = list(items)
    helpers = min(threads, len(work)) - 1
    if helpers <= 0:
        return [function(item) for item in work]
    results: list[Result | None] = [None] * len(work)
    places = itertools.count()

    def take_what_is_left() -> None:
        while (place := next(places)) < len(work):
            results[place] = function(work[place])

    others = [_pool(helpers).submit(take_what_is_left) for _ in range(helpers)]
    try:
        take_what_is_left()
    finally:
        wait(others)
    for other in others:
        other.result()
    return cast(list[Result], results)


@functools.cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    """Threads that wait for work; starting them anew costs as much as encoding a million elements."""
    return ThreadPoolExecutor(helpers, thread_name_prefix="nmsim")

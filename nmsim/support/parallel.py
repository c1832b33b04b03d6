"""Work spread over cores. Compiled kernels let go of the interpreter, so threads are enough."""

import contextlib
import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar, cast

from nmsim.errors import NmsimError, brief

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """Call a function for each item on up to `threads` cores; results in order.

    The calling thread does its share: it already has a core, so that the others are given another one. After an
    error no new item is begun, and of several errors that of the first item is raised, as on one core.

    Examples
    --------
    >>> run(abs, [-1, 2, -3], threads=2)
    [1, 2, 3]
    """
    work = list(items)
    helpers = min(checked(threads), len(work)) - 1
    if helpers <= 0:
        return [function(item) for item in work]
    results: list[Result | None] = [None] * len(work)
    errors: dict[int, BaseException] = {}
    places = itertools.count()

    def take_what_is_left() -> None:
        while not errors and (place := next(places)) < len(work):
            try:
                results[place] = function(work[place])
            except BaseException as error:
                errors[place] = error

    with signals_wait():
        others = [_pool(helpers).submit(take_what_is_left) for _ in range(helpers)]
        take_what_is_left()
        wait(others)
    if errors:
        raise errors[min(errors)]
    return cast(list[Result], results)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the end; for short work with a pool of threads or processes.

    Their handlers raise exceptions. One that is raised just after a lock of the pool was taken leaves it locked. The threads
    of the pool then wait for ever, and the process waits for them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number, handler in handlers.items():
            if handler is not None:  # None: set by other code than Python's, which cannot be put back
                signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
    for name in came:
        signal.raise_signal(name)


def checked(threads: int) -> int:
    """Refuse an invalid number of cores.

    Raises
    ------
    NmsimError
        Not an int of at least 1.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise NmsimError(
            f"threads={brief(threads)} (type {type(threads).__name__}): expected an int of at least 1"
        )
    return threads


@functools.cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    """Threads that wait for work; starting them anew costs as much as encoding a million elements."""
    return ThreadPoolExecutor(helpers, thread_name_prefix="nmsim")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child inherits the pool, but not its threads

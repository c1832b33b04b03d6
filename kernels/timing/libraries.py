"""The dense libraries that products are compared with: torch, if it is installed, and the threads that libraries use."""

import contextlib
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController


def torch_if_installed() -> Any:
    """Torch, or None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


@contextlib.contextmanager
def threads_of_libraries(
    threads: int, *, torch: Any = None, blas: ThreadpoolController | None = None
) -> Iterator[None]:
    """Hold numpy's BLAS and torch to a number of threads.

    Parameters
    ----------
    threads : int
    torch : module, optional
        None leaves torch alone.
    blas : ThreadpoolController, optional
        Found anew when absent, which takes some milliseconds.
    """
    with (blas or ThreadpoolController()).limit(limits=threads, user_api="blas"):
        if torch is None:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

"""Products of matrices that stay in the thread that asks for them, while other threads or processes work too.

A library that shares a product among threads lets them wait for each other in loops. As soon as somebody else needs a
core, that takes ten times as long as the product itself.
"""

from contextlib import AbstractContextManager, ContextDecorator, nullcontext
from functools import cache
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


class _OneThread(ContextDecorator):
    """A limit of the whole process, so that threads share it: the first to open it sets it, the last takes it back.

    Threads that each set and took back their own could leave it in force for good.
    """

    def __init__(self) -> None:
        self._guard = Lock()
        self._n_open = 0
        self._limit: AbstractContextManager[object] = nullcontext()

    def __enter__(self) -> None:
        with self._guard:
            if self._n_open == 0:
                self._limit = _blas().limit(limits=1, user_api="blas")
            self._n_open += 1

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._n_open -= 1
            if self._n_open == 0:
                self._limit.__exit__(None, None, None)


_one_thread = _OneThread()


def one_thread_each() -> _OneThread:
    """While it is open, or while a function that it decorates runs, a product of matrices stays in its thread."""
    return _one_thread


@cache
def _blas() -> "ThreadpoolController":
    """The libraries that multiply matrices in this process; looking for them takes longer than a small product."""
    import_module("scipy.linalg")  # it brings a library of its own, beside NumPy's
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

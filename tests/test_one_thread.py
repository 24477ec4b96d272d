"""Products of matrices stay in their thread, where several work at once and where figures are made."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from lesion_tasks.evaluation.comparison import compare_models
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.metrics.one_thread import one_thread_each
from lesion_tasks.watching.watch import watch_champion


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_last_of_several_threads_takes_the_limit_back() -> None:
    """Their times overlap, as those of threads that predict at once: the first to open is the first to close."""
    with threadpool_limits(2, user_api="blas"):
        first, second = ExitStack(), ExitStack()
        first.enter_context(one_thread_each())
        second.enter_context(one_thread_each())
        first.close()
        assert threads() == {1}
        second.close()
        assert threads() == {2}


class AskedError(Exception):
    """Raised by the first thing that is read of a workspace or a training."""


class Looked:
    """Says how many threads a product would take when it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AskedError(threads())


@pytest.mark.parametrize(
    ("work", "n_more"), [(evaluate_training, 1), (watch_champion, 1), (compare_models, 3)]
)
def test_figures_are_made_in_one_thread(work: Callable[..., object], n_more: int) -> None:
    __import__("scipy.linalg")  # it has a library of its own
    with threadpool_limits(2, user_api="blas"):
        with pytest.raises(AskedError) as found:
            work(Looked(), *[Looked()] * n_more)
        assert found.value.args[0] == {1}
        assert threads() == {2}

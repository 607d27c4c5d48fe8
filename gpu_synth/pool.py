"""Work on one scan after another, here or in processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


DIED = "its process died, though no other ran beside it, most often for want of memory; crop the scan, or use a machine with more"


def check_workers(workers: int) -> None:
    """Refuse what is no number of processes."""
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}; 0 works in this process")


def each(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result | str]]:
    """Do the same with each item, and yield it with its result as soon as that is there.

    A process that dies takes its whole pool with it, and nobody tells which item it worked on. What was not finished is therefore done in a
    fresh pool, and after a second death by one process, which dies of the culprit alone.

    Args:
        work: What is done, again where a process died; it and the items must be such as can be sent to a process.
        items: In any order.
        workers: Processes, of one thread each; 0 works in this process.

    Yields:
        An item, and its result; or in its place why there is none, in words, where its process died.
    """
    if workers <= 0:
        yield from ((item, work(item)) for item in items)
        return
    left = dict(enumerate(items))
    for _ in range(2):
        for n, result in _finished(work, left, workers):
            yield left.pop(n), result
    while left:
        for n, result in _finished(work, left, workers=1):
            yield left.pop(n), result
        if left:  # one process works in order: it died of the first that is left
            yield left.pop(min(left)), DIED


def _finished(work: Callable[[Item], Result], items: dict[int, Item], workers: int) -> Iterator[tuple[int, Result]]:
    """Work in a pool, and yield numbers and results until all are there or a process died."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)
    futures: dict[Future[Result], int] = {}
    try:
        with suppress(BrokenProcessPool):  # a process may die before all is handed over
            for n, item in items.items():
                futures[pool.submit(work, item)] = n
        for future in as_completed(futures):
            if not isinstance(future.exception(), BrokenProcessPool):
                yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Set up a process: one thread, and an end with its parent's, which a killed parent cannot ask for."""
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

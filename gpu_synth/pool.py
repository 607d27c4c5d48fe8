"""Work on one scan after another, here or in processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result | str]]:
    """Do the same with each item, and yield it with its result as soon as that is there.

    Args:
        work: What is done; it and the items must be such as can be sent to a process.
        items: In any order.
        workers: Processes, of one thread each; 0 works in this process.

    Yields:
        An item, and its result; or in its place why there is none, in words, where its process died.
    """
    if workers <= 0:
        yield from ((item, work(item)) for item in items)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {pool.submit(work, item): item for item in items}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], "its process died, most often for want of memory; run again with fewer --workers"
    finally:
        pool.shutdown(cancel_futures=True)

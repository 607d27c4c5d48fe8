"""How held-out scans are shared out among processes, and what a worker process leaves to its parent."""

import atexit
import signal
from collections.abc import Iterator, Sized
from functools import cache
from multiprocessing import active_children
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DistributedSampler


class ScanSampler(DistributedSampler[Any]):
    """Whole scans, each rank its own, as many for one as for another.

    Numbers from the count of scans on are repetitions that fill the last round: `number % scans` is read once more, and is not scored.
    Ranks take turns in every forward pass of DDP, so none may have fewer.

    Args:
        scans: The data set.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, scans: Sized, rank: int, world: int) -> None:
        self.scans, self.rank, self.world = scans, rank, world  # without super(): it would count and pad in its own way

    def __len__(self) -> int:
        """Scans of this rank, repetitions included."""
        return -(-len(self.scans) // self.world)

    def __iter__(self) -> Iterator[int]:
        """Numbers of scans."""
        return iter(range(self.rank, len(self) * self.world, self.world))


def leave_signals(worker: int) -> None:
    """Ignore, in a worker process, what asks the training to stop: a scheduler or a terminal sends it to all processes at once."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@cache
def end_workers_at_exit() -> None:
    """Have workers that are still there when Python ends be killed: it would ask them by a signal that they leave, and wait without end."""

    def kill() -> None:
        for child in active_children():
            if child.daemon:
                child.kill()

    atexit.register(kill)


def rank_and_world(trainer: pl.Trainer | None) -> tuple[int, int]:
    """This process and the number of processes."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

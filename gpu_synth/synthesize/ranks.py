"""Which of several processes this one is, as options, torchrun or SLURM say, and its share of the work."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

Item = TypeVar("Item")
STARTERS = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # of a step: a batch script itself is one process, whatever NTASKS
)


class Rank(NamedTuple):
    """One of several processes.

    Attributes:
        number: From 0.
        world: How many there are.
        local: Its number on its machine.
        told_by: Who said so: "options", "torchrun", "SLURM", or nobody.
    """

    number: int = 0
    world: int = 1
    local: int = 0
    told_by: str = ""

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part: neighbours together, so that variants of a case are mostly one process's."""
        return items[self.number * len(items) // self.world : (self.number + 1) * len(items) // self.world]


def find_rank(rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ) -> Rank:
    """Find out; options win over torchrun's variables, and these over SLURM's.

    Raises:
        ValueError: Only one of the two is given, or they contradict each other.
    """
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size must be given together, got {rank=}, {world_size=}; or neither, under torchrun or srun")
    if rank is not None and world_size is not None:
        return _checked("rank and world_size", rank, world_size, rank, "options")
    for starter, number, world, local in STARTERS:
        if number in environment and world in environment:
            names = f"{number} and {world}"
            try:
                found = (int(environment[number]), int(environment[world]), int(environment.get(local, environment[number])))
            except ValueError as error:
                raise ValueError(
                    f"{names} must be whole numbers, got {environment[number]!r}, {environment[world]!r}; or give --rank and --world_size"
                ) from error
            return _checked(names, *found, starter)
    return Rank()


def _checked(names: str, number: int, world: int, local: int, told_by: str) -> Rank:
    if not 0 <= number < world:
        raise ValueError(f"{names} must be a number from 0 and how many there are, got {number} and {world}; ranks are 0 to {world - 1}")
    return Rank(number, world, local, told_by)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: it splits tensors by their number, and vector and scalar code, at the ends of parts, round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def find_device(device: str, local_rank: int) -> torch.device:
    """Where a process works: "auto" takes the machine's GPUs in turn, else the CPU.

    Raises:
        ValueError: There is no such device.
    """
    if device == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return torch.device("cuda", local_rank % gpus) if gpus else torch.device("cpu")
    try:
        found = torch.device(device)
        if found.type not in ("cpu", "cuda"):
            raise RuntimeError(f"{found.type} is neither cpu nor cuda")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device must be auto, cpu, cuda or cuda:0 and so on, and be there, got {device!r} ({first})") from error
    return found

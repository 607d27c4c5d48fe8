"""Clocks: one for the host, one for CUDA, and the bandwidth of a copy, which is what every floor is reckoned with."""

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch

COPY_BYTES = 1 << 29  # far larger than any cache
GROUP_MS = 0.25  # launches between two events last at least this long together, which an event's own microseconds do not blur
GROUP_MOST = 100
HOLD_CYCLES = 20_000_000  # some 10 ms for which the device is held up at least, so that launches queue
CYCLES_PER_S = 2_000_000_000  # of a fast clock


class Spent(NamedTuple):
    """Milliseconds of each run, or mean of each group of runs; further clocks on CUDA; and of what is run beside."""

    runs_ms: list[float]
    device_ms: float | None = None
    call_ms: float | None = None
    beside_ms: list[float] | None = None

    @property
    def times_beside(self) -> float | None:
        """Mean, as a multiple of that of what is run beside."""
        return None if self.beside_ms is None else self.mean_ms / statistics.mean(self.beside_ms)

    @property
    def ms(self) -> float:
        """Median."""
        return statistics.median(self.runs_ms)

    @property
    def mean_ms(self) -> float:
        """Mean."""
        return statistics.mean(self.runs_ms)

    @property
    def p90_ms(self) -> float:
        """What nine of ten runs stay within."""
        return sorted(self.runs_ms)[-(-9 * len(self.runs_ms) // 10) - 1]


def host_times(
    run: Callable[[], object], seconds: float, least: int = 5, warm_up: int = 3, cycle: int = 1, beside: Callable[[], object] | None = None
) -> Spent:
    """Time runs by the wall clock, one by one.

    Args:
        run: What is timed.
        seconds: For how long.
        least: Runs at the least.
        warm_up: Runs before the clock starts.
        cycle: Runs come in multiples of it.
        beside: What takes turns with it: of two things timed one after the other, a busy machine may slow down one alone.
    """
    both = [run] if beside is None else [run, beside]
    for _ in range(warm_up):
        for one in both:
            one()
    spent: list[list[float]] = [[] for _ in both]
    until = time.perf_counter() + seconds
    while len(spent[0]) < least or len(spent[0]) % cycle or time.perf_counter() < until:
        for one, of_one in zip(both, spent, strict=True):
            begin = time.perf_counter()
            one()
            of_one.append(1000 * (time.perf_counter() - begin))
    return Spent(spent[0], beside_ms=None if beside is None else spent[1])


def cuda_times(run: Callable[[], object], seconds: float, least: int = 5, warm_up: int = 3) -> Spent:
    """Time back-to-back runs by events, as a training loop would call them: no wait in between, launching included where it is slower.

    `call_ms` is the same by the wall clock, until the device is done. `device_ms` is what the device takes where launches wait for it.
    """
    for _ in range(warm_up):
        run()
    torch.cuda.synchronize()
    group, groups = _grouping(run, seconds, least)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(groups + 1)]  # type: ignore[no-untyped-call]
    begin = time.perf_counter()
    events[0].record()
    for event in events[1:]:
        for _ in range(group):
            run()
        event.record()
    torch.cuda.synchronize()
    wall_ms = 1000 * (time.perf_counter() - begin)
    runs_ms = [first.elapsed_time(second) / group for first, second in pairwise(events)]
    return Spent(runs_ms, _held_up_ms(run), wall_ms / (group * groups))


def _grouping(run: Callable[[], object], seconds: float, least: int) -> tuple[int, int]:
    """Runs between two events, and how many such groups fill the time."""
    begin = time.perf_counter()
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    once_ms = 1000 * (time.perf_counter() - begin) / 5
    group = min(GROUP_MOST, max(1, round(GROUP_MS / once_ms)))
    return group, max(least, min(20_000, round(1000 * seconds / (group * once_ms))))


def _held_up_ms(run: Callable[[], object], times: int = 5) -> float:
    """Median time on the device of single runs that are launched while it is held up, so that it never waits for the host."""
    started = time.perf_counter()
    run()
    hold = max(HOLD_CYCLES, round(2 * CYCLES_PER_S * (time.perf_counter() - started)))  # twice as long as the host takes to launch it all
    torch.cuda.synchronize()
    spent: list[float] = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda._sleep(hold)  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        spent.append(begin.elapsed_time(end))
    return statistics.median(spent)


def copy_gb_per_s(device: torch.device, nbytes: int = COPY_BYTES) -> float:
    """Bandwidth of a copy far larger than the caches, bytes read and bytes written both counted."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock = cuda_times if device.type == "cuda" else host_times
    return 2 * nbytes / clock(lambda: target.copy_(source), 0.3).ms / 1e6


@contextmanager
def utilisation(device: torch.device) -> Iterator[list[float]]:
    """Sample the share of time in which the GPU runs a kernel, as nvidia-smi tells it.

    Yields:
        A list, filled at the end with samples in [0, 1]; it stays empty where none can be had, as on a CPU.
    """
    samples: list[float] = []
    if device.type != "cuda":
        yield samples
        return
    which = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield samples
        return
    try:
        yield samples
    finally:
        process.terminate()
        told, _ = process.communicate()
        samples.extend(float(line) / 100 for line in told.split("\n") if line.strip().isdigit())


def one_ahead(device: torch.device) -> Callable[[], None]:
    """Wait for the batch before, as a training would that is one ahead of its device."""
    done: list[torch.cuda.Event] = []

    def wait() -> None:
        if device.type == "cuda":
            done.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
            done[-1].record()
            if len(done) > 1:
                done.pop(0).synchronize()

    return wait

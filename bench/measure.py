"""Rows: each operation under each setting timed, set against its floor, and the ratios between rows."""

import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from gpu_synth.bench.case import Case, Operation, Setting, bytes_of
from gpu_synth.bench.machine import machine
from gpu_synth.bench.settings import ALL
from gpu_synth.bench.timing import COPY_BYTES, Spent, copy_gb_per_s, cuda_times, host_times, utilisation
from gpu_synth.presets import SIZE_CLASSES

LOOP_TIMES = 7  # as long is a training timed on CUDA as a kernel: nvidia-smi, which takes its time to start, has five samples a second
REFERENCE = "scipy.ndimage.gaussian_filter, 96³ float64, σ 4"


@dataclass(frozen=True, kw_only=True)
class Row(Setting):
    """A line of the result.

    Attributes:
        name: Name of the operation.
        what: What it does, in words.
        ms: Median time of a call.
        mean_ms: Mean: what counts where calls differ, as those of several size classes do.
        p90_ms: What nine of ten calls stay within (on CUDA: of ten groups of calls).
        runs: Calls, or groups of calls, that were timed.
        device_ms: On CUDA: time on the device of a call whose launches were all queued before.
        call_ms: On CUDA: wall time of a call among back-to-back calls, launching from Python included.
        bytes: What the call reads and writes.
        floor_ms: Those bytes over the bandwidth of a copy.
        times_floor: Median over floor.
        images_per_second: Samples over mean time.
        times_published: Those over the published method's on one core, same classes, same run.
        times_plain: Mean over that of the published method as this package has it, which ran beside it: on a host in turns, on
            CUDA after it.
        launches: Kernels of this package that a call launches.
        device_operations: Torch's operations in it that do something on the device.
        operations: All of torch's operations in it, views and allocations too.
        share: Share of a training step that is synthesis.
        gpu_utilisation: Share of time in which the GPU runs a kernel.
    """

    name: str
    what: str
    ms: float
    mean_ms: float
    p90_ms: float
    runs: int
    device_ms: float | None = None
    call_ms: float | None = None
    bytes: int | None = None
    floor_ms: float | None = None
    times_floor: float | None = None
    images_per_second: float | None = None
    times_published: float | None = None
    times_plain: float | None = None
    launches: int | None = None
    device_operations: int | None = None
    operations: int | None = None
    share: float | None = None
    gpu_utilisation: float | None = None


@dataclass(frozen=True)
class Failure(Setting):
    """A line that could not be measured, and why."""

    name: str = ""
    why: str = ""
    out_of_memory: bool = False


@dataclass(frozen=True)
class Result:
    """All that one run of the benchmark found."""

    machine: dict[str, Any]
    copy_gb_per_s: float
    reference_ms: float | None
    rows: list[Row]
    failures: list[Failure]


def measure(
    chosen: Sequence[tuple[Operation, Setting]],
    device: torch.device,
    seconds: float,
    least: int = 5,
    copy_bytes: int = COPY_BYTES,
    progress: Callable[[str], None] = lambda _: None,
    keep: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Time rows one after another, the reference among those that are compared with it.

    Args:
        chosen: Operations and settings.
        device: Where.
        seconds: For each row.
        least: Runs of each row at the least.
        copy_bytes: Size of the copy that floors are reckoned with.
        progress: Is told what comes next.
        keep: Is handed what is known after each row: a run that is cut short leaves that.
    """
    bandwidth, reference, rows, failures = copy_gb_per_s(device, copy_bytes), list[float](), list[Row](), list[Failure]()
    result = Result(machine(device), bandwidth, None, rows, failures)
    volume = np.random.default_rng(0).random((96, 96, 96))
    for number, (operation, setting) in enumerate(chosen):
        progress(f"{number + 1} of {len(chosen)}: {operation.name} {setting.size_class or ''}")
        if device.type == "cpu" and is_compared(operation.name, setting):
            reference += host_times(lambda: gaussian_filter(volume, 4.0), min(0.1, seconds), least).runs_ms
        try:
            rows.append(time_row(operation, setting, device, seconds, least, bandwidth))
        except (RuntimeError, ValueError) as error:
            failures.append(
                Failure(**vars(setting), name=operation.name, why=str(error), out_of_memory=isinstance(error, torch.OutOfMemoryError))
            )
        gc.collect()  # a loader's workers end with its iterator
        if device.type == "cuda":
            torch.cuda.empty_cache()
        result = replace(result, reference_ms=statistics.median(reference) if reference else None, rows=against_published(rows))
        keep(result)
    return result


def is_compared(name: str, setting: Setting | Row) -> bool:
    """Whether a row is one of the five that are set against the reference."""
    return name == "synthesis" and setting.size_class != ALL and setting.batch == 1 and setting.patch == 96


def time_row(operation: Operation, setting: Setting, device: torch.device, seconds: float, least: int, copy_gb_per_s: float) -> Row:
    """Make an operation's input, run it, and reckon its floor."""
    case = operation.make(device, setting)
    on_device = device.type == "cuda" and not case.loop and setting.source != "published"
    feeds = case.loop and setting.source is not None
    with _threads(case.threads):
        spent, used = _on_device(case, seconds, least) if on_device else _by_the_wall(case, device, seconds, least, feeds)
    moved = bytes_of(case.reads) + bytes_of(case.run()) if setting.backend and not case.loop else 0
    floor_ms = moved / copy_gb_per_s / 1e6 or None
    return Row(
        **vars(setting),
        name=operation.name,
        what=operation.what,
        ms=spent.ms,
        mean_ms=spent.mean_ms,
        p90_ms=spent.p90_ms,
        runs=len(spent.runs_ms),
        device_ms=spent.device_ms,
        call_ms=spent.call_ms,
        bytes=moved or None,
        floor_ms=floor_ms,
        times_floor=spent.ms / floor_ms if floor_ms else None,
        images_per_second=1000 * setting.samples / spent.mean_ms if setting.size_class else None,
        times_plain=spent.times_beside,
        gpu_utilisation=statistics.mean(used) if used else None,
        **case.watch.columns(sum(spent.runs_ms)),
    )


def _on_device(case: Case, seconds: float, least: int) -> tuple[Spent, list[float]]:
    spent = cuda_times(case.run, seconds, least, case.warm_up)
    beside = case.beside and cuda_times(case.beside, seconds, least, case.warm_up)
    return spent._replace(beside_ms=beside.runs_ms) if beside else spent, []


def _by_the_wall(case: Case, device: torch.device, seconds: float, least: int, feeds: bool) -> tuple[Spent, list[float]]:
    """Time by the wall clock; of a training and its feeds also how busy the GPU is, once it is warm."""
    for _ in range(case.warm_up):
        case.run()
        if case.beside:
            case.beside()
    case.watch.started()
    if not feeds:
        return host_times(case.run, seconds, least, 0, case.cycle, case.beside), []
    with utilisation(device) as used:
        spent = host_times(case.run, seconds * (LOOP_TIMES if device.type == "cuda" else 1), least, 0, case.cycle, case.beside)
    return spent, used


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def against_published(rows: Sequence[Row]) -> list[Row]:
    """Set each row of the synthesis against the published method's row of the same size class."""
    published = {row.size_class: row.images_per_second for row in rows if row.name == "published"}

    def compared(row: Row) -> Row:
        theirs = published.get(row.size_class) if row.name in ("synthesis", "synthesis-one-core") and row.patch == 96 else None
        return replace(row, times_published=row.images_per_second / theirs) if theirs and row.images_per_second else row

    return [compared(row) for row in rows]


def ratios(result: Result) -> dict[str, float | None]:
    """The figures that are promised: each a ratio of rows of the same run, None where a row of it is missing."""
    rows = result.rows
    compared = [row.mean_ms for row in rows if is_compared(row.name, row)]
    complete = len(compared) == len(SIZE_CLASSES) and result.reference_ms is not None

    def fastest(name: str) -> float | None:
        return max((row.images_per_second or 0.0 for row in rows if (row.name, row.size_class, row.patch) == (name, ALL, 96)), default=None)

    ours, one_core, published, banked = (fastest(name) for name in ("synthesis", "synthesis-one-core", "published", "published-banked"))
    doubled = [
        more.ms / less.ms
        for less in rows
        for more in rows
        if less.name == more.name == "volume" and _mode(less) == _mode(more) and (more.lesions or 0) == 2 * (less.lesions or 0)
    ]
    return {
        "synthesis_to_reference": statistics.mean(compared) / result.reference_ms if complete and result.reference_ms else None,
        "synthesis_to_published": ours / published if ours and published else None,
        "synthesis_to_published_banked": ours / banked if ours and banked else None,
        "synthesis_one_core_to_published": one_core / published if one_core and published else None,
        "volume_doubled": max(doubled, default=None),
    }


def _mode(row: Row) -> tuple[str | None, bool | None]:
    return row.backend, row.graph

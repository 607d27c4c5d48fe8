"""The law by which lesions grow from cell to cell, as torch operations: what a grid makes of it, thresholds, steps, and where to stop."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpu_synth.kernels import _host
from gpu_synth.kernels._cells import Box
from gpu_synth.kernels.rng import Purpose, philox, split64

MATURITY = 5  # steps after which a cell invades one beside it
UNITS = 16  # of time, a step
HAZARD = 2.0  # a step, where all 26 neighbours are mature, and rate and fertility are 1
RATES = (1.0, 0.3, 0.1)  # by level of HU
WEIGHT, SIDE, SIDE_POWER = 1024, 0.5, -2.0  # of a neighbour: times this for each axis on which it differs, by the axis' relative length
MOST_SPLIT, NEARLY = 8, 0.05  # cells a voxel along an axis; what may lack of a whole one
FERTILITY_MM, MOST_PERIOD = 7.0, 64  # between nodes of the fertility; cells, at most
BARREN_LOW, BARREN_SPAN = 0.4, 1.2  # thresholds are multiplied by the fourth power of these: from 0.03 to 6.6, 1 in the middle
NODE_BITS, EXPONENTIAL_STEPS = 10, 4096
NEVER = 2**31 - 1  # a threshold that is not reached
EMPTY = 32767  # a time that does not come


BESIDE = (4, 2, 1)  # classes of neighbours that differ along i, j, k alone


class Law(NamedTuple):
    """What a grid makes of the law, see `kernels.growth`. Neighbours are of class 4 · (i differs) + 2 · (j differs) + (k differs), 1 to 7.

    Attributes:
        split: Cells a voxel, along i, j, k.
        cell_mm: Edges of a cell.
        delay: Steps after which a cell invades a neighbour, by class; 0 of class 0.
        weight: Of a neighbour, by class.
        period: Cells from node to node of the fertility, along i, j, k.
        scale: Threshold of one 4096th of an exponential, by level of HU.
    """

    split: list[int]
    cell_mm: list[float]
    delay: list[int]
    weight: list[int]
    period: list[int]
    scale: list[float]


def law_of(spacing_mm: Sequence[float]) -> Law:
    """Fit the law to a grid: voxels are split into cells that are nearly cubes."""
    return _law_of(tuple(spacing_mm))


@lru_cache(maxsize=64)
def _law_of(spacing_mm: tuple[float, ...]) -> Law:
    split = [min(MOST_SPLIT, int(mm / min(spacing_mm) + NEARLY)) for mm in spacing_mm]
    cell_mm = [mm / n for mm, n in zip(spacing_mm, split, strict=True)]
    ratio = [mm / min(cell_mm) for mm in cell_mm]
    delay, weight = [0], [0]
    for kind in range(1, 8):
        differs = [r for axis, r in enumerate(ratio) if crosses(kind, axis)]
        delay.append(round(MATURITY * math.hypot(*differs)))
        weight.append(max(1, round(WEIGHT * math.prod(SIDE * r**SIDE_POWER for r in differs))))
    whole = sum(weight[kind] << kind.bit_count() for kind in range(1, 8))
    period = [max(1, min(MOST_PERIOD, round(FERTILITY_MM / mm))) for mm in cell_mm]
    return Law(split, cell_mm, delay, weight, period, [whole / (HAZARD * rate * EXPONENTIAL_STEPS) for rate in RATES])


def crosses(kind: int, axis: int) -> bool:
    """Whether neighbours of a class differ along an axis."""
    return bool(kind >> (2 - axis) & 1)


def to_cells(voxels: Tensor, law: Law) -> Tensor:
    """Repeat each voxel of `(b, i, j, k)` for its cells."""
    for axis, n in enumerate(law.split, start=1):
        voxels = voxels if n == 1 else voxels.repeat_interleave(n, axis)
    return voxels


def to_voxels(cells: Tensor, law: Law) -> Tensor:
    """Middle cells of voxels, of `(b, i, j, k)` cells; of an even number of cells, the one beyond the middle."""
    i, j, k = (slice(n // 2, None, n) for n in law.split)
    return cells[:, i, j, k]


def thresholds(level: Int[Tensor, "b i j k"], cells: Box, law: Law, seed: int, uid: Int[Tensor, " b"]) -> Int[Tensor, "b i j k"]:
    """Sum of hazards at which each cell is invaded; `cells` are positions in the whole. Products of doubles, in one order."""
    scale = torch.tensor(law.scale, dtype=torch.float64).to(level.device, non_blocking=True)
    drawn = _exponentials(cells, seed, uid).add_(0.5).mul_(scale[level]).mul_(_barrenness(cells, law, seed, uid))
    return drawn.to(torch.int32).add_(1)


def _exponentials(cells: Box, seed: int, uid: Tensor) -> Float[Tensor, "b i j k"]:
    """4096ths of an exponential number for each cell, rounded down; float64. A block of words serves four cells along k."""
    i, j, (start, end) = cells
    first = start >> 2
    word = _words(Purpose.GROWTH, (i, j, (first, ((end - 1) >> 2) + 1)), seed, uid)
    word = torch.stack(word.unbind(), -1).flatten(-2)[..., start - 4 * first : end - 4 * first]
    return (word >> 8).to(torch.float64).add_(0.5).mul_(2.0**-24).log_().mul_(-EXPONENTIAL_STEPS).floor_()


def _barrenness(cells: Box, law: Law, seed: int, uid: Tensor) -> Float[Tensor, "b i j k"]:
    """Factor on thresholds, a smooth field: nodes uniform and independent, linear in between (in integers), then to the fourth power."""
    i, j, k = ((start // n, (end - 1) // n + 2) for (start, end), n in zip(cells, law.period, strict=True))
    value = _words(Purpose.FERTILITY, (i, j, k), seed, uid)[0] >> (32 - NODE_BITS)
    for axis, ((start, end), (first, _), n) in enumerate(zip(cells, (i, j, k), law.period, strict=True), start=1):
        at = torch.arange(start, end, device=uid.device)
        node, part = at.div(n, rounding_mode="floor") - first, at.remainder(n).view([-1 if dim == axis else 1 for dim in range(4)])
        value = value.index_select(axis, node) * (n - part) + value.index_select(axis, node + 1) * part
    return value.to(torch.float64).mul_(per_node(law)).mul_(BARREN_SPAN).add_(BARREN_LOW).square_().square_()


def per_node(law: Law) -> float:
    """What turns interpolated integers into shares of one."""
    return 1.0 / (((1 << NODE_BITS) - 1) * math.prod(law.period))


def _words(purpose: Purpose, box: Box, seed: int, uid: Tensor) -> Int[Tensor, "4 b i j k"]:
    """Four words for each place of a box: 16 bits of its position along i are the slot, those along j and k the index."""
    i, j, k = (torch.arange(start, end, device=uid.device) & 0xFFFF for start, end in box)
    low, high = ((uid >> shift & 0xFFFFFFFF)[:, None, None, None] for shift in (0, 32))
    return philox((j[:, None] << 16 | k, i[:, None, None] | int(purpose) << 16, low, high), split64(seed))


def window(time: Int[Tensor, "b i+2 j+2 k+2"], left: Int[Tensor, "b i j k"], first: int, law: Law) -> None:
    """Work through `MATURITY` steps from `first` on, in place. `time` has a margin of one cell; `left` is what thresholds have left.

    What is invaded meanwhile matures later, so all steps can be seen at once: on a host, where that spares calls.
    """
    at_once = MATURITY if _host.on_host(time.device) else 1
    for start in range(first, first + MATURITY, at_once):
        _work(time, left, range(start, start + at_once), law)


def _work(time: Tensor, left: Tensor, steps: range, law: Law) -> None:
    more = _hazard(time, steps, law)
    after = more.cumsum(0, dtype=torch.int32)
    before, here = after - more, time[:, 1:-1, 1:-1, 1:-1]
    hit = (left > before) & (left <= after)
    if _host.on_host(time.device):
        step, *cell = at = hit.nonzero(as_tuple=True)
        sixteenth = (UNITS * (left[tuple(cell)] - before[at]) - 1) // more[at]
        here[tuple(cell)] = (UNITS * (steps.start + step) + sixteenth).to(torch.int16)
    else:
        sixteenth = (UNITS * (left - before) - 1) // more.clamp_min(1)
        here.copy_(torch.where(hit, UNITS * steps.start + sixteenth, here)[0])
    left.sub_(after[-1])


def _hazard(time: Tensor, steps: range, law: Law) -> Int[Tensor, "steps b i j k"]:
    """Weights of each cell's neighbours that are mature in each step; at most 7 · 1024, so int16 holds their sum."""
    ends = torch.tensor([UNITS * (step + 1) for step in steps], dtype=torch.int16).to(time.device, non_blocking=True)[
        :, None, None, None, None
    ]
    mature = {delay: (time < ends - UNITS * delay).to(torch.int16) for delay in set(law.delay[1:])}
    total = torch.zeros(len(steps), len(time), *(n - 2 for n in time.shape[1:]), dtype=torch.int16, device=time.device)
    for kind in range(1, 8):
        cells = mature[law.delay[kind]]
        for axis in sorted((0, 1, 2), key=lambda axis: crosses(kind, axis)):  # the smaller ones first
            cells = _beside(cells, axis + 2) if crosses(kind, axis) else cells.narrow(axis + 2, 1, cells.shape[axis + 2] - 2)
        total.add_(cells, alpha=law.weight[kind])
    return total.to(torch.int32)


def _beside(cells: Tensor, dim: int) -> Tensor:
    n = cells.shape[dim] - 2
    return cells.narrow(dim, 0, n) + cells.narrow(dim, 2, n)


def stopped(
    time: Int[Tensor, "b i j k"], number: Int[Tensor, "b i j k"], target: Int[Tensor, "b slots"], windows: int
) -> tuple[Int[Tensor, "b slots"], Bool[Tensor, "b slots"]]:
    """When each lesion's voxels are nearest to `target`, or its latest time where they never are as many; and whether they are."""
    (b, slots), ends = target.shape, MATURITY * UNITS * windows
    at = torch.where((number > 0) & (time < EMPTY), (number.to(torch.int64) - 1) * ends + time, slots * ends).flatten(1)
    counts = torch.zeros(b, slots * ends + 1, dtype=torch.int32, device=time.device)
    counts.scatter_add_(1, at, torch.ones((), dtype=torch.int32, device=time.device).expand_as(at))
    upto = torch.nn.functional.pad(counts[:, :-1].view(b, slots, ends).cumsum(-1, dtype=torch.int32), (1, 0))  # from −1 on
    total = upto[..., -1]
    reached = (total >= target) & (target > 0)
    stop = (upto[..., 1:] < torch.where(reached, target, total)[..., None]).sum(-1).clamp_max(ends - 1)
    before, then = (upto.gather(-1, stop[..., None] + late)[..., 0] for late in (0, 1))
    stop = stop - (reached & (target - before < then - target)).to(torch.int64)
    return torch.where(total > 0, stop, -1).to(torch.int16), reached

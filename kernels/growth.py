"""Lesions grown by a cellular automaton: a cell that was invaded invades its neighbours in turn, until the lesion has its volume.

The states of the published automaton count steps since a cell was invaded, so all that is kept is the *time of invasion*. A cell is mature,
and may invade a neighbour, `MATURITY` steps after its own invasion. In every step an empty cell is invaded with probability 1 − exp(−h);
its hazard h is the tissue's rate (1, 0.3 or 0.1, by three levels of HU) times its fertility times twice the weighted share of its 26
neighbours that are mature. Such trials, step by step, are in law one draw a cell: a threshold, exponential, and invasion in the step in
which the sum of hazards reaches it. How far into the step that is, in sixteenths, is kept too: it orders the cells of a step. All is
integers, or doubles that are multiplied in one order; a threshold begins as the floor of 4096 logarithms of 24 random bits, none of which
lies within 9 · 10⁻⁹ of an integer. So twin and kernels agree to the bit. The random bits of a cell depend on its place in the whole.

**Round.** Were all neighbours alike, as published, lesions would be blunt cubes: mean radii along (100) and (111) of 0.92 and 1.03. So
those across an edge and a corner count ½ and ¼ of one beside, and are invaded √2 and √3 times as late: 0.99 to 1.01, for radii of 10 and
22 cells and hazards of 1 and 2. On grids of long voxels the published law gives cigars, and any law that sees next neighbours alone gives
double cones; so voxels are split into cells that are nearly cubes, and a voxel has the time of its middle cell. To cross an axis that is
still ρ < 2 times as long as the shortest takes ρ times as long, and counts ρ⁻² as much: within 6 % of round.

**Irregular.** That alone gives balls with a ragged surface. So tissue is unequal: fertility, between 1/6.6 and 39, is interpolated between
random nodes 7 mm apart. Outlines get lobes and bays as wide, and stay compact, as maturity bounds the speed of growth.

**Levels** of HU are those of the mean of 27 voxels, organ alone, as the noise of single ones would else decide: up to max(10 HU, 1 noise)
above the organ's HU, or darker; up to max(20 HU, 2 noise); brighter. Our choice.

**Windows.** What is invaded in a window of `MATURITY` steps is mature in the next one at the earliest. So a window depends on those before
it alone, and is one pass over the cells, in place, in any order. The kernels make `steps` / MATURITY passes, whatever the lesions.

Cost: a kernel's pass touches the tiles that an unfinished lesion can have reached, with 7 bytes and some 150 integer operations a cell.
The twin makes, on a host, some 30 passes of 16 bits a step over the box that can have been reached, until the lesion has its volume.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gpu_synth.kernels import _host, _launch
from gpu_synth.kernels._automaton import (
    BESIDE,
    EMPTY,
    MATURITY,
    NEVER,
    UNITS,
    Law,
    law_of,
    per_node,
    stopped,
    thresholds,
    to_cells,
    to_voxels,
    window,
)
from gpu_synth.kernels._cells import Box
from gpu_synth.kernels._groups import groups
from gpu_synth.kernels._seedbed import BALL, Ground, Lesions, lesions_of, levels_in, owners, seeded, voxels_a_mm3
from gpu_synth.kernels.shape import TILE_VOX

STEPS_FIRST, STEPS_A_CELL = 25, 7  # of unhindered lesions, 95 % have their volume then
MOST_STEPS = 2045  # times are 16-bit
_COLUMNS, _THREADS = 9, 256  # of the kernels


class Grown(NamedTuple):
    """What has grown.

    Attributes:
        time: When a lesion invaded a voxel, in sixteenths of a step; −1 where none had when it stopped.
        number: 0 none, n the lesion in slot n − 1.
        stop: When a lesion had its volume, or where it never had, its latest time; −1 where it has no voxel.
        reached: Whether it had its volume.
    """

    time: Int[Tensor, "b i j k"]  # int16, as all but `reached`
    number: Int[Tensor, "b i j k"]
    stop: Int[Tensor, "b slots"]
    reached: Bool[Tensor, "b slots"]


class Grid(NamedTuple):
    """The cells that lesions grow in, for how long, and whose random numbers they have."""

    law: Law
    spacing_mm: Sequence[float]
    origin_vox: Sequence[int]
    windows: int
    seed: int
    uid: Tensor


def steps_for(radius_mm: float, spacing_mm: Sequence[float]) -> int:
    """Count the steps within which 95 % of lesions of a radius have their volume, where nothing is in their way."""
    return min(MOST_STEPS, math.ceil(STEPS_FIRST + STEPS_A_CELL * radius_mm / min(law_of(spacing_mm).cell_mm)))


def growth(
    image: Float[Tensor, "b i j k"],
    label: Int[Tensor, "b i j k"],
    vessel: UInt8[Tensor, "b i j k"] | None,
    centre_vox: Float[Tensor, "b slots 3"],
    radius_mm: Float[Tensor, "b slots"],
    active: Bool[Tensor, "b slots"],
    organ_hu: Float[Tensor, " b"],
    noise_hu: Float[Tensor, " b"],
    organ_label: int,
    spacing_mm: Sequence[float],
    steps: int,
    seed: int,
    uid: Int[Tensor, " b"],
    origin_vox: Sequence[int] = (0, 0, 0),
    backend: str = "torch",
) -> Grown:
    """Grow each lesion from its centre, until it has the volume of a ball of its radius.

    It grows in the organ, out of vessels, where HU are finite, and within 1.6 radii of its centre; of lesions that close, the lower slot
    grows and the other keeps a voxel's distance. One whose centre lies elsewhere, or beyond the array, does not grow. The array's border
    is a barrier too: a lesion that comes within a voxel of it may grow otherwise than in the whole.

    Args:
        image: HU, any floating type.
        label: Labels, any integer type.
        vessel: Voxels that no lesion enters; None where there are none.
        centre_vox: Centres in the whole.
        radius_mm: Of the ball of as much volume.
        active: Slots in use; so is no slot whose numbers are not finite.
        organ_hu: HU of each organ.
        noise_hu: SD of its noise.
        organ_label: Number of the organ.
        spacing_mm: Of the voxels of all samples, along i, j, k.
        steps: Steps after which lesions stop, whatever their volume, rounded up to whole windows; see `steps_for`.
        seed: The run's seed.
        uid: The samples' ordinals in the run.
        origin_vox: First voxel of the array in the whole.
        backend: "torch" or "cupy".

    Raises:
        ValueError: `steps` is out of range.

    Source: "From Pixel to Cancer", 2024, facts on growth: 26 neighbours, invasion from state 5 of 10 on, probability by three levels of
        HU, barriers. Hazards in place of probabilities, weights, cells, fertility and the volume at which it ends are ours.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be from 1 to {MOST_STEPS}, got {steps}; see steps_for")
    run = _growth_cuda if backend == "cupy" else growth_torch
    grid = Grid(law_of(spacing_mm), spacing_mm, origin_vox, -(-steps // MATURITY), seed, uid)
    return run(Ground(image, label, vessel, organ_hu, noise_hu, organ_label), (centre_vox, radius_mm, active), grid)


def _growth_cuda(ground: Ground, lesions: tuple[Tensor, Tensor, Tensor], grid: Grid) -> Grown:
    (b, slots), out = lesions[2].shape, _nothing(ground.label, lesions[2].shape[1])
    for rows in groups(b, 1 + 6 * math.prod(grid.law.split)) if slots else ():
        of_rows = grid._replace(uid=grid.uid[rows])
        _grow_cuda(Grown(*(x[rows] for x in out)), ground.part(rows), (lesions[0][rows], lesions[1][rows], lesions[2][rows]), of_rows)
    return out


def _grow_cuda(out: Grown, ground: Ground, lesions: tuple[Tensor, Tensor, Tensor], grid: Grid) -> None:
    """Grow the lesions of some samples, into `out`."""
    law, device, windows = grid.law, ground.label.device, grid.windows
    (b, *shape), slots = ground.label.shape, lesions[2].shape[1]
    places = [slots, *shape, *law.split]
    total, bins = (torch.zeros(b, slots, n, dtype=torch.int32, device=device) for n in (grid.windows + 1, MATURITY * UNITS))
    latest = torch.full((b, slots), -1, dtype=torch.int32, device=device)
    rows, time, need = _sow(ground, lesions, grid, out.number, total, places)
    arguments = [time, total, rows, need, out.number, windows, *places, *law.delay[1:], *law.weight[1:]]
    _launch.launch_each("growth", "grow_kernel", _tiles(time.shape), (_THREADS, 1, 1), arguments, 5, range(1, grid.windows))
    voxels = (-(-math.prod(shape) // _THREADS), b, 1)
    counted = [bins, latest, time, out.number, rows, total, windows, *places]
    _launch.launch("growth", "count_kernel", voxels, (_THREADS, 1, 1), counted)
    summed = [out.stop, out.reached, bins, latest, rows, total, windows, b * slots]
    _launch.launch("growth", "stop_kernel", (-(-b * slots // 64), 1, 1), (64, 1, 1), summed)
    _launch.launch("growth", "finish_kernel", voxels, (_THREADS, 1, 1), [out.time, out.number, time, out.stop, *places])


def _sow(
    ground: Ground, lesions: tuple[Tensor, Tensor, Tensor], grid: Grid, number: Tensor, total: Tensor, places: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Lesions in cells, times with seeds alone, and thresholds; whose ball holds a voxel goes into `number`."""
    image, label, law = ground.image.contiguous(), ground.label.contiguous(), grid.law
    (b, *shape), slots, device, uid = label.shape, lesions[2].shape[1], label.device, grid.uid.contiguous()
    cells = (b, *(n * split for n, split in zip(shape, law.split, strict=True)))
    rows, need = (torch.empty(size, dtype=torch.int32, device=device) for size in ((b, slots, _COLUMNS), cells))
    time, levels = (torch.empty(size, dtype=torch.int16, device=device) for size in (cells, (b, 3)))
    level, balls = torch.empty_like(label, dtype=torch.uint8), torch.empty(b, slots, 4, dtype=torch.float32, device=device)
    given = [x.contiguous() for x in (lesions[0].float(), lesions[1].float(), lesions[2], ground.organ_hu.float(), ground.noise_hu.float())]
    reach = [BALL / mm for mm in law.cell_mm]
    arguments = [rows, balls, levels, *given, voxels_a_mm3(grid.spacing_mm), *places, *grid.origin_vox, *reach]
    _launch.launch("growth", "lesions_kernel", (b, 1, 1), (64, 1, 1), arguments)
    kinds = [_launch.image_kind(image.dtype), _launch.label_kind(label.dtype), ground.organ_label]
    vessel = _launch.NULL if ground.vessel is None else ground.vessel.contiguous()
    arguments = [level, image, label, vessel, rows, levels, *kinds, *places]
    _launch.launch("growth", "level_kernel", _tiles(label.shape), (_THREADS, 1, 1), arguments)
    fields = [_launch.key(grid.seed), *law.scale, per_node(law), grid.windows]
    arguments = [time, need, number, total, rows, balls, level, uid, *fields, *places, *grid.origin_vox, *law.period, *law.cell_mm]
    _launch.launch("growth", "need_kernel", _tiles(time.shape), (_THREADS, 1, 1), arguments)
    return rows, time, need


def _tiles(shape: Sequence[int]) -> tuple[int, int, int]:
    i, j, k = (-(-n // tile) for n, tile in zip(shape[1:], TILE_VOX, strict=True))
    return k, i * j, shape[0]


def _nothing(label: Tensor, slots: int) -> Grown:
    def full(shape: Sequence[int], value: int) -> Tensor:
        return torch.full(shape, value, dtype=torch.int16, device=label.device)

    of_slots = (len(label), slots)
    reached = torch.zeros(of_slots, dtype=torch.bool, device=label.device)
    return Grown(full(label.shape, -1), full(label.shape, 0), full(of_slots, -1), reached)


def growth_torch(ground: Ground, lesions: tuple[Tensor, Tensor, Tensor], grid: Grid) -> Grown:
    """Twin of the kernels."""
    shape, out = ground.label.shape[1:], _nothing(ground.label, lesions[2].shape[1])
    table = lesions_of(*lesions, grid.law, grid.spacing_mm, grid.origin_vox, shape)
    for region in _regions(table, grid.law, shape):
        _grow(out, region, ground, table, grid)
    return out


class _Region(NamedTuple):
    """What is worked on at once: samples, a box of voxels, the slots that grow in it, and slots whose balls may lie in it."""

    samples: slice
    box: Box
    slots: slice
    near: Sequence[int]


def _regions(lesions: Lesions, law: Law, shape: Sequence[int]) -> Iterator[_Region]:
    """The box of each lesion's ball, as far as the array goes; everything where nothing is looked at."""
    slots = lesions.target.shape[1]
    if not _host.on_host(lesions.target.device):
        i, j, k = ((0, n) for n in shape)
        yield _Region(slice(None), (i, j, k), slice(0, slots), range(slots))
        return
    for sample, rows in enumerate(zip(*(x.tolist() for x in lesions[:3]), strict=True)):
        boxes: dict[int, Box] = {}
        for slot, (seed, extent, target) in enumerate(zip(*rows, strict=True)):
            axes = zip(seed, extent, law.split, shape, strict=True)
            i, j, k = ((max(0, (at - far) // n), min(end, (at + far) // n + 1)) for at, far, n, end in axes)
            if target:
                boxes[slot] = (i, j, k)
        for slot, box in boxes.items():
            near = [n for n in boxes if n <= slot and all(a <= d + 2 and c <= b + 2 for (a, b), (c, d) in zip(box, boxes[n], strict=True))]
            yield _Region(slice(sample, sample + 1), box, slice(slot, slot + 1), near)


def _grow(out: Grown, region: _Region, every_ground: Ground, every_lesion: Lesions, grid: Grid) -> None:
    """Grow the lesions of a region, into `out`."""
    (samples, box, slots, near), law, uid = region, grid.law, grid.uid[region.samples]
    ground, lesions = every_ground.part(samples), Lesions(*(x[samples] for x in every_lesion))
    cells = [(start * n, end * n) for (start, end), n in zip(box, law.split, strict=True)]
    i, j, k = ((start + first * n, end + first * n) for (start, end), first, n in zip(cells, grid.origin_vox, law.split, strict=True))
    number = owners(lesions, near, (i, j, k), law)
    number.masked_fill_((number <= slots.start) | (number > slots.stop), 0)
    level, allowed = levels_in(ground, box)
    left = thresholds(to_cells(level, law), (i, j, k), law, grid.seed, uid)
    left.masked_fill_((number == 0) | ~to_cells(allowed, law), NEVER)
    time = torch.full((len(left), *(n + 2 for n in left.shape[1:])), EMPTY, dtype=torch.int16, device=left.device)
    inner = time[:, 1:-1, 1:-1, 1:-1]
    for slot in range(slots.start, slots.stop):
        planted = seeded(lesions.seed[:, slot], (cells[0], cells[1], cells[2])) & (number == slot + 1) & (left < NEVER)
        inner.masked_fill_(planted, 0)
        left.masked_fill_(planted, 0)
    target = lesions.target[:, slots]
    _windows(time, left, target, [at - start for at, (start, _) in zip(lesions.seed[:1, slots.start].flatten(), cells, strict=True)], grid)
    number, when = to_voxels(number, law), to_voxels(inner, law)
    stop, reached = stopped(when, number - slots.start, target, grid.windows)
    latest = torch.nn.functional.pad(stop, (1, 0), value=-1)
    grown = when <= latest.gather(1, (number - slots.start).clamp_min(0).flatten(1).to(torch.int64)).view(when.shape)
    inside = (samples, *(slice(*ends) for ends in box))
    out.time[inside] = torch.where(grown, when, out.time[inside])
    out.number[inside] = torch.where(grown, number, out.number[inside])
    out.stop[samples, slots], out.reached[samples, slots] = stop, reached


def _windows(time: Tensor, left: Tensor, target: Tensor, seed: Sequence[Tensor], grid: Grid) -> None:
    """All windows; on a host, of the box that can have been reached, until the lesion has its volume."""
    if not _host.on_host(time.device):
        for number in range(1, grid.windows):
            window(time, left, MATURITY * number, grid.law)
        return
    at, enough = [int(x) for x in seed], int(target)
    for number in range(1, grid.windows):
        reach = [(MATURITY * (number + 1) - 1) // delay for delay in map(grid.law.delay.__getitem__, BESIDE)]
        box = [(max(0, place - far), min(n, place + far + 1)) for place, far, n in zip(at, reach, left.shape[1:], strict=True)]
        wide, inner = ((slice(None), *(slice(start, end + more) for start, end in box)) for more in (2, 0))
        window(time[wide], left[inner], MATURITY * number, grid.law)
        if to_voxels(time[:, 1:-1, 1:-1, 1:-1], grid.law).lt(EMPTY).count_nonzero() >= enough:
            return

"""Cells of a texture's random field: one or two voxels an axis. Which of them a box of voxels needs, and how they are smoothed."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels.gaussian import TRUNCATE, Axis

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # start and end (exclusive) of each axis
Triple = tuple[float, float, float]


class Lattice(NamedTuple):
    """Where a field's cells are, and how far it is smoothed at the most: host numbers, one an axis."""

    whole_vox: tuple[int, int, int]
    cell_vox: tuple[int, int, int]
    density_bound_vox: Triple
    grain_bound_vox: Triple

    @property
    def whole_cells(self) -> Box:
        """All cells of the field."""
        i, j, k = ((0, -(-n // h)) for n, h in zip(self.whole_vox, self.cell_vox, strict=True))
        return i, j, k


class Field(NamedTuple):
    """A texture's random field: its key, its cells, its widths, `(b,)` or one an axis `(b, 3)`: mm at a spacing, voxels without one."""

    seed: int
    uid: Int[Tensor, " b"]
    lattice: Lattice
    density_sigma: Float[Tensor, "b ..."]
    grain_sigma: Float[Tensor, "b ..."]
    spacing_mm: Triple = (1.0, 1.0, 1.0)

    def part(self, samples: slice) -> "Field":
        """That of some of the samples."""
        uid, density, grain = (x[samples] for x in (self.uid, self.density_sigma, self.grain_sigma))
        return self._replace(uid=uid, density_sigma=density, grain_sigma=grain)


class Window(NamedTuple):
    """What a box of a field is made of: cells of grain, the cells of noise that their density needs, and both smoothings."""

    cells: Box
    source: Box
    density_axes: tuple[Axis, ...]
    grain_axes: tuple[Axis, ...]


@lru_cache(maxsize=256)
def window(lattice: Lattice, box: Box | None) -> Window:
    """What a box of voxels is made of; None: all cells, for statistics of the whole, whose grain is smoothed from cells to cells."""
    if box is None:
        cells = lattice.whole_cells
        grain_axes = cell_axes(lattice, cells, cells, lattice.grain_bound_vox)
    else:
        cells = reach_of(lattice, to_cells(lattice, box), lattice.grain_bound_vox)
        grain_axes = voxel_axes(lattice, box, cells)
    source = reach_of(lattice, cells, lattice.density_bound_vox)
    return Window(cells, source, tuple(cell_axes(lattice, cells, source, lattice.density_bound_vox)), tuple(grain_axes))


def cell_vox(grain_sigma_min_mm: float, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Voxels a cell, one number an axis: two where the narrowest grain spans three voxels, else one."""
    i, j, k = (max(1, min(2, round(grain_sigma_min_mm / (1.5 * spacing)))) for spacing in spacing_mm)
    return i, j, k


def cell_axes(lattice: Lattice, rows: Box, columns: Box, bound_vox: Triple) -> list[Axis]:
    """Smoothing from cells to cells."""
    return [
        Axis(row, column, h * cells, bound, row_cell=h, column_cell=h)
        for row, column, h, (_, cells), bound in zip(rows, columns, lattice.cell_vox, lattice.whole_cells, bound_vox, strict=True)
    ]


def voxel_axes(lattice: Lattice, box: Box, cells: Box) -> list[Axis]:
    """Smoothing of the grain from cells to the voxels of a box."""
    parts = zip(box, cells, lattice.whole_vox, lattice.grain_bound_vox, lattice.cell_vox, strict=True)
    return [Axis(voxels, column, whole, bound, column_cell=h) for voxels, column, whole, bound, h in parts]


def to_cells(lattice: Lattice, box: Box) -> Box:
    """Cells that hold the voxels of a box, as far as the whole has them."""
    i, j, k = (
        (max(0, min(start, n - 1) // h), min(-(-max(end, 1) // h), cells))
        for (start, end), n, h, (_, cells) in zip(box, lattice.whole_vox, lattice.cell_vox, lattice.whole_cells, strict=True)
    )
    return i, j, k


def reach_of(lattice: Lattice, cells: Box, bound_vox: Triple) -> Box:
    """Cells that smoothing up to the given width needs, as far as the whole has them."""
    reaches = (int(TRUNCATE * s / h + 1.5) for s, h in zip(bound_vox, lattice.cell_vox, strict=True))
    i, j, k = (
        (max(0, first - reach), min(end, last + reach))
        for (first, last), (_, end), reach in zip(cells, lattice.whole_cells, reaches, strict=True)
    )
    return i, j, k

"""Cells of a texture's random field: one or two voxels an axis. Which of them a box of voxels needs, and how they are smoothed."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels.gaussian import TRUNCATE, Axis

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # start and end (exclusive) of each axis


class Field(NamedTuple):
    """A texture's random field: its key, its whole, its widths. Widths `(b, 3)` in voxels; bounds are host numbers, one an axis."""

    seed: int
    uid: Int[Tensor, " b"]
    whole_vox: tuple[int, int, int]
    cell_vox: tuple[int, int, int]
    density_sigma_vox: Float[Tensor, "b 3"]
    density_bound_vox: Sequence[float]
    grain_sigma_vox: Float[Tensor, "b 3"]
    grain_bound_vox: Sequence[float]

    def part(self, samples: slice) -> "Field":
        """That of some of the samples."""
        uid, density, grain = (x[samples] for x in (self.uid, self.density_sigma_vox, self.grain_sigma_vox))
        return self._replace(uid=uid, density_sigma_vox=density, grain_sigma_vox=grain)

    @property
    def whole_cells(self) -> Box:
        """All cells of the field."""
        i, j, k = ((0, -(-n // h)) for n, h in zip(self.whole_vox, self.cell_vox, strict=True))
        return i, j, k


def cell_vox(grain_sigma_min_mm: float, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Voxels a cell, one number an axis: two where the narrowest grain spans three voxels, else one."""
    i, j, k = (max(1, min(2, round(grain_sigma_min_mm / (1.5 * spacing)))) for spacing in spacing_mm)
    return i, j, k


def cell_axes(field: Field, rows: Box, columns: Box, bound_vox: Sequence[float]) -> list[Axis]:
    """Smoothing from cells to cells."""
    return [
        Axis(row, column, h * cells, bound, row_cell=h, column_cell=h)
        for row, column, h, (_, cells), bound in zip(rows, columns, field.cell_vox, field.whole_cells, bound_vox, strict=True)
    ]


def voxel_axes(field: Field, box: Box, cells: Box) -> list[Axis]:
    """Smoothing of the grain from cells to the voxels of a box."""
    parts = zip(box, cells, field.whole_vox, field.grain_bound_vox, field.cell_vox, strict=True)
    return [Axis(voxels, column, whole, bound, column_cell=h) for voxels, column, whole, bound, h in parts]


def to_cells(field: Field, box: Box) -> Box:
    """Cells that hold the voxels of a box, as far as the whole has them."""
    i, j, k = (
        (max(0, min(start, n - 1) // h), min(-(-max(end, 1) // h), cells))
        for (start, end), n, h, (_, cells) in zip(box, field.whole_vox, field.cell_vox, field.whole_cells, strict=True)
    )
    return i, j, k


def reach_of(field: Field, cells: Box, bound_vox: Sequence[float]) -> Box:
    """Cells that smoothing up to the given width needs, as far as the whole has them."""
    i, j, k = (
        (max(0, first - reach), min(end, last + reach))
        for (first, last), (_, end), reach in zip(
            cells, field.whole_cells, (int(TRUNCATE * s / h + 1.5) for s, h in zip(bound_vox, field.cell_vox, strict=True)), strict=True
        )
    )
    return i, j, k

"""Smooth bodies as implicit functions: negative inside, millimetres from the surface, on a coarse lattice fixed in space.

A `Lattice` lies on absolute multiples of `CELL_MM`, so that what is drawn on it does not depend on the grid that is to be shown;
`Grid` is that grid, and takes fields from the lattice by cubic B-splines, which also round off every edge.
Axes i, j, k are right, anterior and superior (RAS); positions are in millimetres of the patient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_synth.kernels import rng

CELL_MM = 4.0
FAR_MM = 40.0  # bodies are exact within this distance of their surface
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Random:
    """The random words of one phantom: a function of seed and uid."""

    seed: int
    uid: int

    def words(self, slot: int, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw `n` words, int64 in [0, 2³²); slot 0 is the voxels' own."""
        low, high = (torch.full((), half, dtype=torch.int64, device=device) for half in rng.split64(self.uid))
        second = torch.full((), int(rng.Purpose.PHANTOM) << 16 | slot, dtype=torch.int64, device=device)
        return rng.philox((torch.arange(-(-n // 4), device=device), second, low, high), rng.split64(self.seed)).T.reshape(-1)[:n]

    def uniform(self, slot: int, n: int) -> NDArray[np.float64]:
        """Draw `n` numbers in [0, 1) on the host."""
        return rng.to_uniform(self.words(slot, n)).double().numpy()


def spline_weights(position: Tensor, n: int) -> Tensor:
    """Cubic B-spline weights of `n` control points at 0, 1, …, as a matrix, a row a position; beyond the ends all is 0."""
    t = (position[:, None] - torch.arange(n, device=position.device)).abs().to(torch.float32)
    return torch.where(t < 1, 4 - 6 * t**2 + 3 * t**3, (2 - t).clamp_min(0) ** 3) / 6


def interpolate(field: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Multiply each axis of an (i, j, k) field by its matrix; the last first, as it is the cheapest."""
    i, j, k = (len(matrix) for matrix in weights)
    field = weights[0] @ field.flatten(1)
    field = weights[1] @ field.view(i, -1, weights[2].shape[1])
    return (field.view(i * j, -1) @ weights[2].T).view(i, j, k)


class Points:
    """Points on three axes, in millimetres, and the smooth noise at them."""

    def __init__(self, axes_mm: Sequence[Tensor], random: Random) -> None:
        self.axes_mm, self.random, self.device = tuple(axes_mm), random, axes_mm[0].device
        self.shape = tuple(len(axis) for axis in axes_mm)

    @property
    def x(self) -> Tensor:
        """Millimetres to the patient's right, (i, 1, 1)."""
        return self.axes_mm[0][:, None, None]

    @property
    def y(self) -> Tensor:
        """Millimetres anterior, (1, j, 1)."""
        return self.axes_mm[1][None, :, None]

    @property
    def z(self) -> Tensor:
        """Millimetres superior, (1, 1, k)."""
        return self.axes_mm[2][None, None, :]

    def noise(self, slot: int, cell_mm: float, box: Box | None = None) -> Tensor:
        """Smooth noise of unit variance: a B-spline over random values, one each `cell_mm`; a function of position alone."""
        counts = [2 * math.ceil(reach / cell_mm) + 3 for reach in (240.0, 180.0, 240.0)]
        values = rng.to_normal(self.random.words(slot, math.prod(counts) + 1 & ~1, self.device))[: math.prod(counts)].view(*counts)
        parts = box or (slice(None),) * 3
        places = [axis[part] / cell_mm + n // 2 for axis, part, n in zip(self.axes_mm, parts, counts, strict=True)]
        return interpolate(values, [spline_weights(place, n) for place, n in zip(places, counts, strict=True)]) * 3.0

    def box(self, low_mm: Sequence[float], high_mm: Sequence[float]) -> Box:
        """The points within a box of the patient; at least one an axis."""
        parts = []
        for axis, low, high in zip(self._host_axes, low_mm, high_mm, strict=True):
            start = min(int(np.searchsorted(axis, low)), len(axis) - 1)
            parts.append(slice(start, max(int(np.searchsorted(axis, high)), start + 1)))
        return parts[0], parts[1], parts[2]

    @cached_property
    def _host_axes(self) -> list[NDArray[np.float32]]:
        return [axis.cpu().numpy() for axis in self.axes_mm]


class Lattice(Points):
    """The lattice points around a region of the patient."""

    def __init__(self, low_mm: Sequence[float], high_mm: Sequence[float], random: Random, device: torch.device) -> None:
        first = [math.floor(low / CELL_MM) - 3 for low in low_mm]
        count = [math.ceil(high / CELL_MM) + 4 - start for high, start in zip(high_mm, first, strict=True)]
        axes = [(torch.arange(n, device=device, dtype=torch.float32) + start) * CELL_MM for start, n in zip(first, count, strict=True)]
        super().__init__(axes, random)
        self.first = first

    def ellipsoid(self, centre: Point, radii: Point, turn_deg: Point = (0.0, 0.0, 0.0)) -> Tensor:
        """An ellipsoid, turned about i, then j, then k; distance to first order."""
        reach = max(radii) + FAR_MM
        box = self.box([c - reach for c in centre], [c + reach for c in centre])
        offset = [axis[part] - c for axis, part, c in zip(self.axes_mm, box, centre, strict=True)]
        turn = rotation(turn_deg)
        i, j, k = (part.view(shape) for part, shape in zip(offset, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True))
        local = [i * float(turn[0, a]) + j * float(turn[1, a]) + k * float(turn[2, a]) for a in range(3)]
        scaled = [part / r for part, r in zip(local, radii, strict=True)]
        norm = torch.stack([part**2 for part in scaled]).sum(0).sqrt()
        slope = torch.stack([(part / r) ** 2 for part, r in zip(scaled, radii, strict=True)]).sum(0).sqrt()
        return self._placed(norm * (norm - 1) / slope.clamp_min(1e-6), box)

    def tube(self, points: Sequence[Point], radii: Sequence[float], round_mm: float = 1.0) -> Tensor:
        """A tube along a smooth curve through points, its radius changing with them."""
        path, radius = curve(points, radii)
        reach = max(radii) + FAR_MM
        box = self.box((path.min(0) - reach).tolist(), (path.max(0) + reach).tolist())
        x, y, z = (axis[part] for axis, part in zip(self.axes_mm, box, strict=True))
        distance = capsules(x[:, None, None], y[None, :, None], z[None, None, :], path, radius, round_mm)
        return self._placed(distance, box)

    def _placed(self, distance: Tensor, box: Box) -> Tensor:
        out = distance.new_full(self.shape, FAR_MM)
        out[box] = distance.clamp_max(FAR_MM)
        return out

    def normalised(self, field: Tensor) -> Tensor:
        """Divide a field by its own slope, where that is steep or flat, so that it measures millimetres near its surface."""
        slope = torch.stack([part**2 for part in torch.gradient(field, spacing=CELL_MM)]).sum(0).sqrt()
        return field / slope.clamp_min(0.4)


class Grid(Points):
    """The points to be shown, and their weights on a lattice."""

    def __init__(self, axes_mm: Sequence[Tensor], lattice: Lattice) -> None:
        super().__init__(axes_mm, lattice.random)
        self.weights = [
            spline_weights(axis / CELL_MM - first, n) for axis, first, n in zip(axes_mm, lattice.first, lattice.shape, strict=True)
        ]

    def take(self, field: Tensor, box: Box | None = None) -> Tensor:
        """A lattice field at these points, or at those in a box."""
        return interpolate(field, [weights[part] for weights, part in zip(self.weights, box or (slice(None),) * 3, strict=True)])


def capsules(x: Tensor, y: Tensor, z: Tensor, path: NDArray[np.float64], radius: NDArray[np.float64], round_mm: float) -> Tensor:
    """Smooth union of cones with round ends along a path."""
    out: Tensor | None = None
    for a, b, r0, r1 in zip(path[:-1].tolist(), path[1:].tolist(), radius[:-1].tolist(), radius[1:].tolist(), strict=True):
        along = [q - p for p, q in zip(a, b, strict=True)]
        dx, dy, dz = x - a[0], y - a[1], z - a[2]
        t = ((dx * along[0] + dy * along[1] + dz * along[2]) / max(sum(c * c for c in along), 1e-9)).clamp_(0, 1)
        squared = (dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2
        distance = squared.sqrt_() - (r0 + (r1 - r0) * t)
        out = distance if out is None else union(out, distance, round_mm)
    if out is None:
        raise ValueError("path must have two points or more")
    return out


def curve(points: Sequence[Point], radii: Sequence[float], pieces: int = 3) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A smooth path through points (Catmull–Rom), and the radius along it."""
    known = np.column_stack([np.asarray(points, float), np.asarray(radii, float)])
    padded = np.vstack([2 * known[0] - known[1], known, 2 * known[-1] - known[-2]])
    t = np.arange(pieces)[:, None] / pieces
    parts = []
    for p0, p1, p2, p3 in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        parts.append(0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3))
    path = np.vstack([*parts, known[-1:]])
    return path[:, :3], path[:, 3].clip(0.3)


def rotation(turn_deg: Point) -> NDArray[np.float64]:
    """The matrix whose columns are the axes of a body turned about i, then j, then k."""
    out = np.eye(3)
    for axis, degrees in enumerate(turn_deg):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        step = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step[a, a], step[a, b], step[b, a], step[b, b] = c, -s, s, c
        out = step @ out
    return out


def union(a: Tensor, b: Tensor, round_mm: float) -> Tensor:
    """Both bodies, the crease between them filled over `round_mm`."""
    blend = (round_mm - (a - b).abs()).clamp_min(0)
    return torch.minimum(a, b) - blend * blend / (4 * round_mm)


def common(a: Tensor, b: Tensor, round_mm: float) -> Tensor:
    """What lies in both bodies, edges rounded over `round_mm`."""
    return -union(-a, -b, round_mm)


def without(a: Tensor, b: Tensor, round_mm: float) -> Tensor:
    """The first body without the second."""
    return common(a, -b, round_mm)


def ramp(field: Tensor, width: float) -> Tensor:
    """Softplus: 0 far below 0, the field itself far above, bent over `width`."""
    return torch.nn.functional.softplus(field / width) * width

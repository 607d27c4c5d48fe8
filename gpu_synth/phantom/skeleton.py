"""The phantom's bones, drawn on the grid itself: their shells are thinner than the lattice's cells."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_synth.phantom.anatomy import Person
from gpu_synth.phantom.implicit import Box, Grid, common, ramp, union

RIB_HALF_MM = (3.6, 6.2)  # across the chest wall, along it
SHELL_MM = 1.7


@dataclass(frozen=True)
class Ribs:
    """Distances to ribs and to the cartilages that carry them on, in millimetres, negative inside."""

    bone: Tensor
    cartilage: Tensor


def ribs(person: Person, grid: Grid, cavity: Tensor) -> Ribs:
    """Ribs in the chest wall, sloping down to the front; the lowest are short.

    Args:
        person: Whose they are.
        grid: Points to be shown.
        cavity: Distance to the trunk's cavity at these points.
    """
    x, y, z = grid.x, grid.y, grid.z
    drop = 0.72 * ramp(y - person.spine_y + 15.0, 20.0) + 0.55 * x.abs()
    place = (z + drop - person.rib_z) / person.rib_pitch
    rank = place.round().clamp_min(0.0)
    along = (place - rank) * (0.86 * person.rib_pitch)
    norm = (((cavity - 5.6) / RIB_HALF_MM[0]) ** 2 + (along / RIB_HALF_MM[1]) ** 2).sqrt()
    bar = torch.maximum((norm - 1.0) * RIB_HALF_MM[0], 24.0 - x.abs())
    past = y - (person.spine_y - 12.0 + 34.0 * rank).clamp_max(person.spine_y + 74.0)
    return Ribs(torch.maximum(bar, past), torch.maximum(torch.maximum(bar, -past), 14.0 - x.abs()) + 40.0 * (rank < 2).float())


@dataclass(frozen=True)
class Spine:
    """Distances to the parts of the spine, in millimetres, negative inside, within a box of the grid."""

    box: Box
    bone: Tensor
    disc: Tensor
    canal: Tensor


def spine(person: Person, grid: Grid) -> Spine:
    """Vertebrae with body, arch and processes, discs between them and the canal behind."""
    box = grid.box((-52.0, person.spine_y - 82.0, -1e4), (52.0, person.spine_y + 30.0, 1e4))
    x, y, z = (axis[part] for axis, part in zip(grid.axes_mm, box, strict=True))
    x, y, z = x[:, None, None], y[None, :, None] - person.spine_y, z[None, None, :]
    rough = 0.8 * grid.noise(26, 13.0, box)
    half = 0.5 * person.pitch
    height = torch.remainder(z - person.disc_z, person.pitch) - half  # 0 in the middle of a body, ± half in the discs
    width = 1.0 - 0.0006 * z.clamp(-120.0, 120.0) + 0.07 * ((height / half) ** 2 - 0.4)
    round_part = (((x / 1.22) ** 2 + y**2).sqrt() - 17.0 * width).expand_as(rough) + rough
    round_part = common(round_part, (-15.5 - y).expand_as(rough), 5.0)
    thick = 3.6 + 1.2 * (1.0 - (y / 17.0) ** 2)
    body = common(round_part, (height.abs() - half + thick).expand_as(rough), 2.5)
    disc = common(round_part + 0.5, (half - thick - height.abs()).expand_as(rough), 1.0)

    behind = y + 25.0
    canal = (((x / 1.15) ** 2 + behind**2).sqrt() - 8.5).expand_as(rough)
    arch = common((canal - 3.6).abs() - 3.4, ((height + 1.0).abs() - 0.62 * half).expand_as(rough), 3.0)
    arch = torch.maximum(arch, -(y + 16.0).expand_as(rough) - 60.0)
    lower = height + 4.0 - 0.18 * behind
    spinous = torch.maximum(x.abs() - 2.6 - 1.2 * torch.sigmoid((-behind - 34.0) / 3.0), lower.abs() - 12.0)
    spinous = torch.maximum(torch.maximum(spinous, behind + 9.0), -behind - 41.0).expand_as(rough)
    sideways = (behind + 0.25 * (x.abs() - 10.0)).abs() ** 2 + (height - 1.0) ** 2
    transverse = torch.maximum(sideways.sqrt() - 4.6 + 0.03 * x.abs(), torch.maximum(10.0 - x.abs(), x.abs() - 40.0)).expand_as(rough)
    facets = (((x.abs() - 13.0) ** 2 + (behind + 4.0) ** 2).sqrt() - 5.4).expand_as(rough)
    bone = union(union(body, arch, 2.5), union(union(spinous, transverse, 3.0), facets, 3.0) + 0.5 * rough, 3.0)
    return Spine(box, torch.maximum(bone, -canal), disc, canal)

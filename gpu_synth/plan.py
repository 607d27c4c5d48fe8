"""TumorPlan: what is to be synthesised, as data. It can be looked at, edited, sliced, saved and rendered again."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels import _host
from gpu_synth.kernels._cells import Field, Lattice, cell_vox
from gpu_synth.kernels.shape import boxes_vox
from gpu_synth.kernels.texture import Normalised, Texture
from gpu_synth.plan_base import Plan, Spacing
from gpu_synth.preset_table import Bounds


@dataclass(frozen=True, eq=False)
class TumorPlan(Plan):
    """Lesions for a batch of `b` samples, in a fixed number of slots a sample.

    Lengths are millimetres; positions are voxels of the whole that the plan was made for, in the tensor's axis order.
    The plan holds every scalar draw and the key (`seed`, `uid`); the texture's noise is a function of key and position.

    Attributes:
        bounds: What the tensors stay within.
        centre_vox: Lesion centres.
        radii_mm: Semi-axes.
        elastic_mm: Displacements at 3 × 3 control points, for the axis pairs (0, 1), (1, 2), (0, 2) and each axis of a pair.
        contrast_hu: HU of a lesion less HU of the organ, at full texture.
        edge_sigma_mm: Width of the blur of edges.
        density_sigma_mm: Width of the smoothing of the density.
        density_low: Least value of the smoothed noise in the whole, an integer.
        density_high: Its greatest value.
        density_scale: Range of the density.
        density_offset: Its lowest value.
        grain_sigma_mm: Width of the smoothing of the salt.
        texture_gain: Factor from grain to texture.
    """

    bounds: Bounds
    centre_vox: Int[Tensor, "b slots 3"]
    radii_mm: Float[Tensor, "b slots 3"]
    elastic_mm: Float[Tensor, "b slots 3 2 3 3"]
    contrast_hu: Float[Tensor, " b"]
    edge_sigma_mm: Float[Tensor, " b"]
    density_sigma_mm: Float[Tensor, " b"]
    density_low: Int[Tensor, " b"]
    density_high: Int[Tensor, " b"]
    density_scale: Float[Tensor, " b"]
    density_offset: Float[Tensor, " b"]
    grain_sigma_mm: Float[Tensor, " b"]
    texture_gain: Float[Tensor, " b"]

    def boxes_vox(self) -> tuple[tuple[int, int, int], ...]:
        """Slots' boxes, for samples of one spacing."""
        return boxes_vox(self.bounds.slot_radius_mm, self.spacing_mm[0])

    def edge_bound_vox(self) -> tuple[float, float, float]:
        """A bound on the edges' widths along each axis, for samples of one spacing."""
        return _bound_vox(self.edge_sigma_mm, self.bounds.edge_sigma_mm, self.spacing_mm[0])

    def texture_field(self) -> tuple[Field, Texture]:
        """The texture's random field and how it becomes a texture, for samples of one spacing."""
        norm = Normalised(self.density_low, self.density_high, self.density_scale, self.density_offset)
        sigmas = (self.density_sigma_mm, self.grain_sigma_mm)
        field = texture_field(self.seed, self.uid, self.whole_vox, self.spacing_mm[0], *sigmas, self.bounds)
        return field, Texture(norm, self.texture_gain)

    def _check_bounds(self) -> None:
        super()._check_bounds()
        reach = 2.0 * torch.tensor(self.bounds.slot_radius_mm, device=self.device)[:, None]
        limits: dict[str, tuple[float, float | Tensor]] = {
            "radii_mm": (0.0, reach),
            "edge_sigma_mm": (0.0, self.bounds.edge_sigma_mm),
            "density_sigma_mm": (0.0, self.bounds.density_sigma_mm),
            "grain_sigma_mm": self.bounds.grain_sigma_mm,
        }
        for name, (low, high) in limits.items():
            tensor = self.tensors()[name]
            if not ((tensor >= low) & (tensor <= high + 1e-4)).all():
                most = high.max().item() if isinstance(high, Tensor) else high
                raise ValueError(
                    f"{name} must stay within what the preset can draw ({low:g} to {most:g}; a lesion's semi-axes to twice its slot's "
                    f"base radius), got {tensor.min().item():g} to {tensor.max().item():g}; make the plan with wider ranges"
                )

    @classmethod
    def _of_host(cls, host: dict[str, Any]) -> dict[str, Any]:
        bounds = Bounds(**super()._of_host(host.pop("bounds")))
        return {**super()._of_host(host), "bounds": bounds}

    def _sizes(self) -> dict[str, int]:
        return {"b": len(self), "slots": len(self.bounds.slot_radius_mm)}

    def to_records(self) -> list[dict[str, Any]]:
        """List what was asked for: one plain dict a lesion. Reads the device.

        Returns:
            Dicts with `uid`, `lesion` (its number in `Render.instances`), `centre_vox`, `radii_mm`, `base_radius_mm`, `contrast_hu`,
            `edge_sigma_mm`, `grain_sigma_mm`, `density_sigma_mm`.
        """
        shared = {name: getattr(self, name).tolist() for name in ("contrast_hu", "edge_sigma_mm", "grain_sigma_mm", "density_sigma_mm")}
        uid, centre, radii = self.uid.tolist(), self.centre_vox.tolist(), self.radii_mm.tolist()
        return [
            {
                "uid": uid[sample],
                "lesion": slot + 1,
                "centre_vox": tuple(centre[sample][slot]),
                "radii_mm": tuple(radii[sample][slot]),
                "base_radius_mm": self.bounds.slot_radius_mm[slot],
                **{name: values[sample] for name, values in shared.items()},
            }
            for sample, slot in self.active.nonzero().tolist()
        ]


def texture_field(
    seed: int,
    uid: Int[Tensor, " b"],
    whole_vox: tuple[int, int, int],
    spacing_mm: Spacing,
    density_sigma_mm: Float[Tensor, " b"],
    grain_sigma_mm: Float[Tensor, " b"],
    bounds: Bounds,
) -> Field:
    """A texture's random field, for samples of one spacing."""
    density_bound_vox = _bound_vox(density_sigma_mm, bounds.density_sigma_mm, spacing_mm)
    grain_bound_vox = _bound_vox(grain_sigma_mm, bounds.grain_sigma_mm[1], spacing_mm)
    lattice = Lattice(whole_vox, cell_vox(bounds.grain_sigma_mm[0], spacing_mm), density_bound_vox, grain_bound_vox)
    return Field(seed, uid, lattice, density_sigma_mm, grain_sigma_mm, spacing_mm)


def margin_vox(margin_mm: float, spacing_mm: Spacing) -> tuple[int, int, int]:
    """A distance as whole voxels along each axis, at least one."""
    i, j, k = (max(1, round(margin_mm / spacing)) for spacing in spacing_mm)
    return i, j, k


def _bound_vox(sigma_mm: Tensor, bound_mm: float, spacing_mm: Spacing) -> tuple[float, float, float]:
    """A bound on widths in voxels along each axis: their own largest where the host may look, else the plan's."""
    if _host.on_host(sigma_mm.device):
        bound_mm = float(sigma_mm.max())
    i, j, k = (bound_mm / spacing for spacing in spacing_mm)
    return i, j, k

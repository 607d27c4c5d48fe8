"""LesionPlan: lesions of the full model as data, each with traits of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels.growth import Grown
from gpu_synth.plan_base import Plan, described

# What people call a lesion's traits; lengths in mm, HU relative to the organ; contrast_hu is of the body, beside rim, core and specks
NAMES = {
    "radius_mm": Trait.RADIUS,
    "irregularity": Trait.IRREGULARITY,
    "lobulation": Trait.LOBULATION,
    "spiculation": Trait.SPICULATION,
    "contrast_hu": Trait.BODY,
    "core_hu": Trait.CORE,
    "core_share": Trait.CORE_SHARE,
    "rim_hu": Trait.RIM,
    "texture_hu": Trait.TEXTURE,
    "texture_mm": Trait.TEXTURE_MM,
    "speck_hu": Trait.SPECK,
    "edge_sigma_mm": Trait.EDGE,
    "mass_effect": Trait.PUSH,
    "capsule_hu": Trait.CAPSULE,
    "capsule_mm": Trait.CAPSULE_MM,
    "halo_hu": Trait.HALO,
    "halo_mm": Trait.HALO_MM,
}
OUTLINES = ("irregularity", "lobulation", "spiculation")
MOST_MM = 1000.0
LENGTHS = ("radius_mm", "texture_mm", "edge_sigma_mm", "capsule_mm", "halo_mm")  # above 0, to `MOST_MM`
UNGROWN = (*OUTLINES, "halo_hu", "halo_mm")  # what lesions that grow do not have
_MOST = {"mass_effect": 100.0, "core_share": 1.0, **dict.fromkeys(OUTLINES, math.inf)}  # from 0 on, as presets have it


def check_trait(name: str, least: float, most: float) -> None:
    """Refuse what no lesion can have of a trait, whoever asks for it.

    Args:
        name: One of `NAMES`.
        least: The least of its values.
        most: The greatest of them; the same, where there is one.

    Raises:
        ValueError: One of them is not finite, or out of range.
    """
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(f"{name} must be a finite number, got {most if math.isfinite(least) else least}")
    if name in LENGTHS and not 0 < least <= most <= MOST_MM:
        raise ValueError(f"{name} must lie in (0, {MOST_MM:g}], got {most if least > 0 else least:g}")
    if name in _MOST and not 0 <= least <= most <= _MOST[name]:
        raise ValueError(f"{name} must lie in [0, {_MOST[name]:g}], got {most if least >= 0 else least:g}")


def check_ungrown(asked: Mapping[str, Any]) -> None:
    """Refuse to ask of lesions that grow what these do not have.

    Raises:
        ValueError: It is asked for.
    """
    if unused := [name for name in UNGROWN if name in asked]:
        raise ValueError(
            f"{unused[0]} must be left out where growth is True, got {asked[unused[0]]}; lesions that grow have no outline and no halo"
        )


def check_centre(centre_vox: Sequence[float], shape_vox: Sequence[int]) -> None:
    """Refuse a centre that lies in no voxel of an array.

    Raises:
        ValueError: It does not.
    """
    if not all(-0.5 <= x < n - 0.5 for x, n in zip(centre_vox, shape_vox, strict=True)):  # NaN lies nowhere
        raise ValueError(f"centre_vox must lie in the image of {tuple(shape_vox)} voxels, got {tuple(centre_vox)}")


@dataclass(frozen=True, eq=False)
class LesionPlan(Plan):
    """Lesions for a batch of `b` samples, in a fixed number of slots a sample.

    Attributes:
        kinds: Names of the kinds that a lesion's row counts.
        centre_vox: Lesion centres in the whole, between voxels.
        lesion: What each lesion is like, see `kernels.traits.Trait`.
        organ_hu: HU of the organ in each scan.
        noise_hu: Its noise.
        grown_time: When a lesion that grows invaded each voxel of the whole, see `kernels.growth.Grown`; None where lesions have outlines.
        grown_number: Which lesion it was.
        grown_stop: When each had its volume.
        cirrhosis: How far a cirrhotic organ's surface waves, in mm, and HU of its nodules (standard deviations); zeros of any other. None
            where no organ can be.
        foreign_hu: How much brighter than the organ vessels are that lesions take the place of, at least, 0 where a scan shows none; and
            how much darker fat is. None where both shine through.
    """

    kinds: tuple[str, ...]
    centre_vox: Float[Tensor, "b slots 3"]
    lesion: Float[Tensor, "b slots traits"]
    organ_hu: Float[Tensor, " b"]
    noise_hu: Float[Tensor, " b"]
    cirrhosis: Float[Tensor, "b 2"] | None = None
    foreign_hu: Float[Tensor, "b 2"] | None = None
    grown_time: Int[Tensor, "b i j k"] | None = None
    grown_number: Int[Tensor, "b i j k"] | None = None
    grown_stop: Int[Tensor, "b slots"] | None = None

    def grown(self, origin_vox: Sequence[int], shape_vox: Sequence[int]) -> Grown | None:
        """What has grown in a part of the whole; None where lesions have outlines."""
        if self.grown_time is None or self.grown_number is None or self.grown_stop is None:
            return None
        ends = [
            (max(0, start), max(0, min(whole, start + n))) for start, n, whole in zip(origin_vox, shape_vox, self.whole_vox, strict=True)
        ]
        box = (slice(None), *(slice(start, max(start, end)) for start, end in ends))
        beyond = [
            side
            for (first, last), start, n in zip(ends[::-1], origin_vox[::-1], shape_vox[::-1], strict=True)
            for side in (first - start, start + n - max(first, last))
        ]
        time, number = (torch.nn.functional.pad(x[box], beyond) if any(beyond) else x[box] for x in (self.grown_time, self.grown_number))
        return Grown(time, number, self.grown_stop, self.grown_stop >= 0)

    def edit(self, **tensors: Tensor) -> "LesionPlan":
        """Copy with some tensors changed, or some traits by name. Reads the device, to refuse what could not be rendered.

        Args:
            **tensors: Fields and their new values, of the same shape; or traits `(b, slots)`: `radius_mm`, `contrast_hu`, `core_hu`,
                `rim_hu`, `edge_sigma_mm`, and so on. A lesion of another radius keeps its form.

        Raises:
            ValueError: A field is unknown, of another shape, not finite, or not what `plan(lesions=…)` would take.
        """
        if self.grown_time is not None:
            check_ungrown({name: described(value) for name, value in tensors.items()})
        fixed = OUTLINES if self.grown_time is None else ("radius_mm", "centre_vox")
        if what := [name for name in fixed if name in tensors]:
            raise ValueError(
                f"{what[0]} must be left as it is, as the lesion's shape hangs on it; plan again with lesions=[{{'{what[0]}': …}}]"
            )
        lesion = self.lesion.clone()
        for name in [name for name in tensors if name in NAMES]:
            value = tensors.pop(name)
            if not isinstance(value, Tensor) or value.shape != lesion.shape[:2]:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{name} must be a tensor of shape {tuple(lesion.shape[:2])}, got {got}")
            value = value.to(lesion.device, torch.float32)
            check_trait(name, value.min().item(), value.max().item())
            if name == "radius_mm":
                larger = (value / lesion[..., Trait.RADIUS])[..., None]
                lesion[..., Trait.AXES : Trait.AXES + 3] *= larger
                lesion[..., Trait.PUSH_MM] *= larger[..., 0]
            if name == "contrast_hu":  # its texture is a share of it
                old = lesion[..., NAMES[name]]
                lesion[..., Trait.TEXTURE] *= (value / torch.where(old == 0, 1.0, old)).abs()
            lesion[..., NAMES[name]] = value
        return super(LesionPlan, replace(self, lesion=lesion)).edit(**tensors)

    def _check_bounds(self) -> None:
        super()._check_bounds()
        for maps in (self.grown_time, self.grown_number):
            if maps is not None and maps.shape != (len(self), *self.whole_vox):
                raise ValueError(f"grown_time and grown_number must have shape {(len(self), *self.whole_vox)}, got {tuple(maps.shape)}")
        for name, trait in NAMES.items():
            values = self.lesion[..., trait]
            check_trait(name, values.min().item(), values.max().item())
        for centre in self.centre_vox[self.active].tolist():
            check_centre(centre, self.whole_vox)

    def _editable(self) -> list[str]:
        return [*super()._editable(), *(name for name in NAMES if name not in OUTLINES)]

    def _sizes(self) -> dict[str, int]:
        return {**super()._sizes(), "traits": Trait.COLUMNS}

    def to_records(self) -> list[dict[str, Any]]:
        """List what was asked for: one plain dict a lesion. Reads the device.

        Returns:
            Dicts with `uid`, `lesion` (its number in `Render.instances`), `kind`, `near` (the number of the lesion whose satellite it is,
            or the first of its cluster; None of any other), `centre_vox`, `semi_axes_mm`, `organ_hu`, `noise_hu`, `cirrhotic`, and the
            traits by name: `radius_mm` (of the ball of as much volume), `contrast_hu`, `core_hu`, `rim_hu`, `edge_sigma_mm`, …
        """
        uid, centre, lesion = self.uid.tolist(), self.centre_vox.tolist(), self.lesion.tolist()
        organ_hu, noise_hu = self.organ_hu.tolist(), self.noise_hu.tolist()
        cirrhotic = [False] * len(self) if self.cirrhosis is None else (self.cirrhosis > 0).any(1).tolist()
        return [
            {
                "uid": uid[sample],
                "lesion": slot + 1,
                "kind": self.kinds[int(lesion[sample][slot][Trait.KIND])],
                "near": int(lesion[sample][slot][Trait.PARENT]) + 1 or None,
                "centre_vox": tuple(centre[sample][slot]),
                "semi_axes_mm": tuple(lesion[sample][slot][Trait.AXES : Trait.AXES + 3]),
                **{name: lesion[sample][slot][trait] for name, trait in NAMES.items()},
                "organ_hu": organ_hu[sample],
                "noise_hu": noise_hu[sample],
                "cirrhotic": cirrhotic[sample],
            }
            for sample, slot in self.active.nonzero().tolist()
        ]

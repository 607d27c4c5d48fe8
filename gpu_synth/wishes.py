"""What a user asks for instead of a draw: these lesions at these points, or a map of where lesions are likely."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpu_synth.kernels._columns import Scan, Trait
from gpu_synth.kernels.sites import MOST_TOTAL
from gpu_synth.kernels.traits import Traits, traits
from gpu_synth.lesion_plan import NAMES
from gpu_synth.lesion_preset import MOST_LESIONS, LesionPreset
from gpu_synth.lesion_table import lesion_table

Wish = Mapping[str, Any]
Asked = tuple[tuple[Wish | None, ...], ...]


class Wishes(NamedTuple):
    """What is asked for, checked.

    Attributes:
        lesions: For each sample, what is known of each of its lesions, and None in the slots after them, as many in each sample; None where
            they are drawn.
        where: How likely a voxel is a lesion's centre, `(b, i, j, k)`; None where the organ's voxels are all alike.
    """

    lesions: Asked | None = None
    where: Float[Tensor, "b i j k"] | None = None

    def of(self, rows: slice) -> "Wishes":
        """Those of some samples."""
        return Wishes(None if self.lesions is None else self.lesions[rows], None if self.where is None else self.where[rows])

    def given_vox(self, device: torch.device) -> Float[Tensor, "b slots 3"] | None:
        """Centres asked for, NaN where none is."""
        if self.lesions is None:
            return None
        nowhere = (math.nan, math.nan, math.nan)
        return _table(self.lesions, lambda wish: tuple(wish.get("centre_vox", nowhere)), nowhere).to(device)

    def most_radius_mm(self, most_drawn_mm: float) -> float:
        """The largest radius asked for, or drawn where one is not."""
        asked = [wish.get("radius_mm", most_drawn_mm) for wishes in self.lesions or () for wish in wishes if wish is not None]
        return float(max(asked, default=most_drawn_mm))

    def weights(self) -> UInt8[Tensor, "b i j k"] | None:
        """The map as integers, of the largest of each sample's values: 1 in 255 is the least that counts, more in huge volumes."""
        if self.where is None:
            return None
        levels, known = min(255, MOST_TOTAL // self.where[0].numel()), self.where.float().nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)
        most = known.flatten(1).amax(1).clamp_min(1e-30)[:, None, None, None]
        return (known * (levels / most)).round().to(torch.uint8)


NO_WISHES = Wishes()


def check_wishes(preset: Any, image: Tensor, lesions: Any, where: Any) -> Wishes:
    """Check what is asked for against the preset and the batch.

    Raises:
        TypeError: An argument has a wrong type.
        ValueError: It cannot be had.
    """
    if lesions is None and where is None:
        return NO_WISHES
    if not isinstance(preset, LesionPreset):
        raise ValueError(
            f"lesions and where must be None for preset {preset.name!r}, which places lesions by its own law; use preset 'liver'"
        )
    if where is not None:
        if not isinstance(where, Tensor) or where.shape != image.shape:
            got = tuple(where.shape) if isinstance(where, Tensor) else type(where).__name__
            raise ValueError(f"where must be a tensor of the image's shape {tuple(image.shape)}, got {got}")
        where = where[:, 0].to(image.device)
    return Wishes(None if lesions is None else _checked(preset, len(image), lesions), where)


def _checked(preset: LesionPreset, b: int, lesions: Any) -> Asked:
    if not isinstance(lesions, Sequence) or isinstance(lesions, str):
        raise TypeError(f"lesions must be a list of lesions, or such a list for each sample, got {type(lesions).__name__}")
    of_samples = [list(lesions)] * b if all(isinstance(wish, Mapping) for wish in lesions) else [list(wishes) for wishes in lesions]
    if len(of_samples) != b:
        raise ValueError(f"lesions must hold a list for each of {b} samples, got {len(of_samples)}")
    for wishes in of_samples:
        if len(wishes) > MOST_LESIONS:
            raise ValueError(f"lesions must be {MOST_LESIONS} a sample at most, got {len(wishes)}")
        for wish in wishes:
            _check_wish(preset, wish)
    slots = max(1, *(len(wishes) for wishes in of_samples))
    return tuple((*wishes, *[None] * (slots - len(wishes))) for wishes in of_samples)


def _check_wish(preset: LesionPreset, wish: Any) -> None:
    known, kinds = ("kind", "centre_vox", *NAMES), [kind.name for kind in preset.kinds]
    if not isinstance(wish, Mapping):
        raise TypeError(f"a lesion must be a mapping of {', '.join(known)}, got {type(wish).__name__}")
    for name, value in wish.items():
        if name not in known:
            raise ValueError(f"what is asked of a lesion must be one of {', '.join(known)}, got {name!r}")
        if name == "kind" and value not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {value!r}")
        numbers = [] if name == "kind" else list(value) if name == "centre_vox" else [value]
        if name == "centre_vox" and len(numbers) != 3:
            raise ValueError(f"centre_vox must hold three numbers, got {value}")
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise ValueError(f"{name} must be finite, got {value}")
        if name in ("radius_mm", "texture_mm", "edge_sigma_mm", "capsule_mm", "halo_mm") and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def asked_traits(lesions: Asked, preset: LesionPreset, seed: int, uid: Tensor, organ_hu: Tensor, noise_hu: Tensor, backend: str) -> Traits:
    """Draw what is not asked for, as the preset has it; a wished kind draws from its own figures."""
    slots, device = len(lesions[0]), uid.device
    scan_row, kind_rows = lesion_table(preset, 1.0, device)
    rest = (slots, 0, seed, uid, organ_hu, noise_hu, backend)
    drawn, names = traits(scan_row, kind_rows, *rest), [kind.name for kind in preset.kinds]
    kind = _table(lesions, lambda wish: (names.index(wish["kind"]) if "kind" in wish else -1,), (-1,))[..., 0].to(device)
    lesion = drawn.lesion
    for n in sorted({names.index(wish["kind"]) for wishes in lesions for wish in wishes if wish and "kind" in wish}):
        of_kind = traits(scan_row, kind_rows[n : n + 1], *rest).lesion
        of_kind[..., Trait.KIND] = n
        lesion = torch.where((kind == n)[..., None], of_kind, lesion)
    for name, trait in NAMES.items():
        value = _table(lesions, lambda wish, name=name: (wish.get(name, math.nan),), (math.nan,))[..., 0].to(device)
        asked = value.isfinite()
        if name == "radius_mm":
            old, value = lesion[..., trait].clone(), torch.where(asked, value, lesion[..., trait])
            lesion[..., Trait.AXES : Trait.AXES + 3] *= (value / old)[..., None]
            lesion[..., Trait.PUSH_MM] = value
            lesion[..., Trait.EDGE] *= _edge_mm(scan_row, value) / _edge_mm(scan_row, old)
        lesion[..., trait] = torch.where(asked, value, lesion[..., trait])
    lesion[..., Trait.PARENT] = -1.0
    active = _table(lesions, lambda wish: (1.0,), (0.0,))[..., 0].to(device) > 0
    return drawn._replace(altered=torch.ones_like(drawn.altered), active=active, lesion=lesion)


def _edge_mm(scan_row: Tensor, radius_mm: Tensor) -> Tensor:
    return (scan_row[Scan.EDGE_SHARE] * radius_mm).clamp(scan_row[Scan.EDGE_MM], scan_row[Scan.EDGE_MM + 1])


def _table(lesions: Asked, of: Any, without: tuple[float, ...]) -> Float[Tensor, "b slots n"]:
    """A row of numbers for each lesion asked for, and for each slot without one."""
    return torch.tensor([[without if wish is None else of(wish) for wish in wishes] for wishes in lesions], dtype=torch.float32)

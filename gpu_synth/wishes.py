"""What a user asks for instead of a draw: these lesions at these points, or a map of where lesions are likely."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gpu_synth.checks import check_choice
from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels.sites import MOST_TOTAL
from gpu_synth.kernels.traits import Traits, traits_torch
from gpu_synth.lesion_kind import NO_SPECKS
from gpu_synth.lesion_plan import NAMES, OUTLINES, check_centre, check_trait, check_ungrown
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

    def weights(self, label: Int[Tensor, "b i j k"], organ_label: int) -> UInt8[Tensor, "b i j k"] | None:
        """The map as integers, of the largest of each organ's values: 1 in 255 is the least that counts, more in huge volumes."""
        if self.where is None:
            return None
        known = self.where.float().nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0) * (label == organ_label)
        levels = min(255, MOST_TOTAL // known[0].numel())
        most = known.flatten(1).amax(1).clamp_min(1e-30)[:, None, None, None]
        return (known * (levels / most)).round().to(torch.uint8)


NO_WISHES = Wishes()
ASKED_SPECKS = 1.405  # standard deviations of its texture that a speck asked for exceeds: 8 % of the volume


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
    return Wishes(None if lesions is None else _checked(preset, image, lesions), where)


def _checked(preset: LesionPreset, image: Tensor, lesions: Any) -> Asked:
    b, what = len(image), "lesions must be a list of mappings, or such a list for each sample"
    if not isinstance(lesions, Sequence) or isinstance(lesions, str):
        raise TypeError(f"{what}, got {type(lesions).__name__}")
    of_samples = [list(lesions)] * b if all(isinstance(wish, Mapping) for wish in lesions) else list(lesions)
    for wishes in of_samples:
        if not isinstance(wishes, Sequence) or isinstance(wishes, str):
            raise TypeError(f"{what}, got {wishes!r} in it")
    if len(of_samples) != b:
        raise ValueError(f"lesions must hold a list for each of {b} samples, got {len(of_samples)}")
    slots = max(1, *(len(wishes) for wishes in of_samples))
    if slots > MOST_LESIONS:
        raise ValueError(f"lesions must be {MOST_LESIONS} a sample at most, got {slots}")
    return tuple((*(_wish(preset, image, wish) for wish in wishes), *[None] * (slots - len(wishes))) for wishes in of_samples)


def _wish(preset: LesionPreset, image: Tensor, wish: Any) -> Wish:
    known, kinds = ("kind", "centre_vox", *NAMES), [kind.name for kind in preset.kinds]
    if not isinstance(wish, Mapping):
        raise TypeError(f"a lesion must be a mapping of {', '.join(known)}, got {wish!r}")
    out: dict[str, Any] = {}
    for name, value in wish.items():
        check_choice("what is asked of a lesion", name, known)
        if name == "kind":
            check_choice("kind", value, kinds)
            out[name] = value
        elif name == "centre_vox":
            out[name] = _inside(value, image)
        else:
            out[name] = _number(name, value)
            check_trait(name, out[name], out[name])
    if preset.growth:
        check_ungrown(out)
    return out


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _inside(value: Any, image: Tensor) -> tuple[float, ...]:
    """A centre in the array."""
    numbers = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(numbers, Sequence) or isinstance(numbers, str) or len(numbers) != 3:
        raise ValueError(f"centre_vox must hold three numbers, got {value!r}")
    at = tuple(_number("centre_vox", number) for number in numbers)
    check_centre(at, image.shape[2:])
    return at


def asked_traits(lesions: Asked, preset: LesionPreset, seed: int, uid: Tensor, organ_hu: Tensor, noise_hu: Tensor) -> Traits:
    """Draw what is not asked for, as the preset has it; a wished kind draws from its own figures."""
    names = [kind.name for kind in preset.kinds]

    def of(name: str) -> Float[Tensor, "b slots"]:
        return _table(lesions, lambda wish: (wish.get(name, math.nan),), (math.nan,))[..., 0].to(uid.device)

    kind = _table(lesions, lambda wish: (names.index(wish["kind"]) if "kind" in wish else math.nan,), (math.nan,))[..., 0].to(uid.device)
    asked = {NAMES[name]: of(name) for name in ("radius_mm", *OUTLINES)} | {Trait.KIND: kind}
    tables = lesion_table(preset, 1.0, uid.device)
    drawn = traits_torch(*tables, len(lesions[0]), 0, seed, uid, organ_hu, noise_hu, asked)
    lesion = drawn.lesion
    for name, trait in NAMES.items():
        value, old = of(name), lesion[..., trait].clone()
        lesion[..., trait] = torch.where(value.isfinite(), value, old)
        if name == "contrast_hu":  # its texture is a share of it
            lesion[..., Trait.TEXTURE] *= (lesion[..., trait] / torch.where(old == 0, 1.0, old)).abs()
        if name == "mass_effect":
            lesion[..., Trait.BULGE].masked_fill_(value.isfinite(), 0.0)
        if name == "speck_hu":
            plain = value.isfinite() & (lesion[..., Trait.SPECK_SHARE] >= NO_SPECKS)
            lesion[..., Trait.SPECK_SHARE].masked_fill_(plain, ASKED_SPECKS)
    lesion[..., Trait.PARENT] = -1.0
    active = _table(lesions, lambda wish: (1.0,), (0.0,))[..., 0].to(uid.device) > 0
    return drawn._replace(altered=torch.ones_like(drawn.altered), active=active, lesion=lesion)


def _table(lesions: Asked, of: Any, without: tuple[float, ...]) -> Float[Tensor, "b slots n"]:
    """A row of numbers for each lesion asked for, and for each slot without one."""
    return torch.tensor([[without if wish is None else of(wish) for wish in wishes] for wishes in lesions], dtype=torch.float32)

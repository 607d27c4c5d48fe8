"""A kind of lesion, such as a cyst: its contrasts, and what is asked of figures before they are drawn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import torch

from gpu_synth.kernels._columns import Kind

Range = tuple[float, float]
NO_SPECKS = 9.0  # standard deviations of its texture that a speck's waves would have to exceed


@dataclass(frozen=True)
class LesionKind:
    """A kind of lesion. Contrasts are shares of the organ's HU, so that one figure serves every contrast phase.

    Attributes:
        name: Such as "hypodense".
        prob: Its share of all lesions.
        body: Contrast; HU of its own where `target` is set.
        offset_hu: HU added to it, for laws of the form a · organ + b.
        target: Whether the body has HU of its own, as water has.
        core: What the core adds to the body.
        core_share: Radius of the core, a share of the lesion's.
        rim: What the rim adds to the body.
        texture: Standard deviation of the texture, a share of the body's contrast.
        speck_hu: HU of calcified specks.
        speck_share: Share of the volume that is speck.
        edge: Factor on the width of the edge.
        capsule_hu: HU of a bright rim on its surface, in lesions of 10 mm and more; less in smaller ones, as the radius.
        capsule_mm: Half the width of that rim (standard deviation).
        outline: Factor on irregularity, lobulation and spiculation: 0 is an ellipsoid.
    """

    name: str
    prob: float
    body: Range
    offset_hu: float = 0.0
    target: bool = False
    core: Range = (0.0, 0.0)
    core_share: Range = (0.5, 0.5)
    rim: Range = (0.0, 0.0)
    texture: Range = (0.05, 0.2)
    speck_hu: Range = (0.0, 0.0)
    speck_share: float = 0.0
    edge: float = 1.0
    capsule_hu: Range = (0.0, 0.0)
    capsule_mm: float = 0.8
    outline: float = 1.0

    def row(self) -> dict[Kind, Sequence[float]]:
        """Its columns in the kernels' table."""
        sigmas = (
            NO_SPECKS if self.speck_share == 0 else math.sqrt(2.0) * float(torch.special.erfinv(torch.tensor(1.0 - 2.0 * self.speck_share)))
        )
        return {
            Kind.TARGET: (float(self.target),),
            Kind.BODY: self.body,
            Kind.CORE: self.core,
            Kind.CORE_SHARE: self.core_share,
            Kind.RIM: self.rim,
            Kind.TEXTURE: self.texture,
            Kind.SPECK_HU: self.speck_hu,
            Kind.SPECK_SHARE: (sigmas,),
            Kind.EDGE: (self.edge,),
            Kind.OFFSET_HU: (self.offset_hu,),
            Kind.CAPSULE_HU: self.capsule_hu,
            Kind.CAPSULE_MM: (self.capsule_mm,),
            Kind.OUTLINE: (self.outline,),
            Kind.SPECK_PART: (self.speck_share,),
        }


def kinds_of(value: Any) -> tuple[LesionKind, ...]:
    """Kinds as YAML gives them: mappings."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"kinds must be a list of LesionKind or mappings of its fields, got {value!r}")
    kinds, known = [], [field.name for field in fields(LesionKind)]
    for kind in value:
        if isinstance(kind, Mapping):
            if odd := [name for name in kind if name not in known]:
                raise ValueError(f"a kind's fields must be among {', '.join(known)}, got {odd[0]!r}")
            if missing := [name for name in ("name", "prob", "body") if name not in kind]:
                raise ValueError(f"a kind must have name, prob and body, got one without {missing[0]!r}: {dict(kind)}")
            kind = LesionKind(**{name: as_tuple(part) for name, part in kind.items()})
        if not isinstance(kind, LesionKind):
            raise ValueError(f"kinds must hold LesionKind or mappings of its fields, got {kind!r}; presets.get('liver').kinds has some")
        _check_kind(kind)
        kinds.append(kind)
    return tuple(kinds)


def _check_kind(kind: LesionKind) -> None:
    """Refuse a kind that cannot be drawn."""
    for name, hint in get_type_hints(LesionKind).items():
        value, what = getattr(kind, name), f"{name} of kind {kind.name!r}"
        if hint in (str, bool) and not isinstance(value, hint):
            raise ValueError(f"{what} must be {'true or false' if hint is bool else 'a name'}, got {value!r}")
        if hint is float and not is_number(value):
            raise ValueError(f"{what} must be a finite number, got {value!r}")
        if hint == Range and not (isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]):
            raise ValueError(f"{what} must be (low, high) with low ≤ high, got {value}")
    for name in ("edge", "capsule_mm"):
        if getattr(kind, name) <= 0:
            raise ValueError(f"{name} of kind {kind.name!r} must be above 0, got {getattr(kind, name)}")
    for name, lowest in (("outline", kind.outline), ("texture", kind.texture[0]), ("core_share", kind.core_share[0])):
        if lowest < 0:
            raise ValueError(f"{name} of kind {kind.name!r} must be 0 or above, got {getattr(kind, name)}")
    if kind.core_share[1] > 1:
        raise ValueError(f"core_share of kind {kind.name!r} must be 1 at most, got {kind.core_share}")
    if not 0 <= kind.speck_share < 1:
        raise ValueError(f"speck_share of kind {kind.name!r} must lie in [0, 1), got {kind.speck_share}")


def as_tuple(value: Any) -> Any:
    """Lists, as YAML gives them, become tuples."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, (list, tuple)) else value


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

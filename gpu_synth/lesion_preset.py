"""What lesions are drawn from, one by one: sizes, outlines, kinds and contrasts; figures have a source, or are said to be our choice."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

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
        capsule_hu: HU of a bright rim on its surface.
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
        }


@dataclass(frozen=True)
class LesionPreset:
    """Everything that is drawn for a scan, and from what. A range is `(low, high)`, uniform; lengths are millimetres.

    Attributes:
        name: Name of the preset it came from.
        count: Lesions of a scan, inclusive.
        size_mm: Ends of four bins of radius (of the ball of as much volume); within a bin it is log-uniform.
        size_prob: Probability of each bin: the weight of the small ones.
        size_prob_start: The same at the start of a run that has a curriculum.
        curriculum_samples: Samples over which the one goes over into the other, linearly by uid; 0 is no curriculum.
        axis_ratio: Second and third semi-axis of the ellipsoid, in first ones.
        irregularity: Standard deviation of bumps in the outline, in radii.
        lobulation: Height of lobes, in radii.
        spiculation: Height of spikes, in radii.
        texture_mm: Wavelength of textures.
        edge_share: Width of the edge (standard deviation), a share of the radius.
        edge_mm: Least and most of it.
        cnr_floor: Least contrast of a lesion, its rim and core counted in, in standard deviations of the scan's noise.
        least_organ_hu: Organs of fewer HU get contrasts as if of these.
        mass_effect: Strength with which a lesion pushes the tissue around it outward, percent; 0 is none.
        bulge: The same for lesions that reach the organ's surface, where it is more: the surface bulges over them.
        halo: What fades into the tissue around, a share of the organ's HU; (0, 0) is none.
        halo_mm: How far it fades.
        apart_mm: Distance between lesions; below −1000 they may merge.
        avoid_vessels: Whether lesions keep away from vessels, in scans that show them.
        avoid_vessels_to_mm: Radius up to which they do; larger ones lie anywhere, encase vessels, and push those around them away.
        inside_share: Least share of the ball that a lesion reaches that lies in the organ.
        cluster_prob: Probability that a scan's lesions lie near the first of them.
        cluster_mm: How near: from its ball to their centres.
        satellite_prob: Probability that the largest lesion of a scan has satellites, small lesions of its kind.
        satellites: How many, inclusive.
        satellite_from_mm: Radius that it has at least.
        satellite_radius_mm: Their radii; half of its own at most.
        satellite_mm: How near they lie: from its ball to their centres.
        cirrhosis_prob: Probability that the organ is cirrhotic.
        surface_mm: Standard deviation of the waves in a cirrhotic organ's surface.
        nodule_hu: Contrast of its regenerative nodules, of 3 to 15 mm.
        growth: Whether lesions grow voxel by voxel, as a cellular automaton, rather than having an outline.
        kinds: What kinds there are.
    """

    name: str
    count: tuple[int, int]
    size_mm: tuple[float, float, float, float, float]
    size_prob: tuple[float, float, float, float]
    size_prob_start: tuple[float, float, float, float]
    curriculum_samples: int
    axis_ratio: Range
    irregularity: Range
    lobulation: Range
    spiculation: Range
    texture_mm: Range
    edge_share: float
    edge_mm: Range
    cnr_floor: float
    least_organ_hu: float
    mass_effect: Range
    bulge: Range
    halo: Range
    halo_mm: Range
    apart_mm: float
    avoid_vessels: bool
    avoid_vessels_to_mm: float
    inside_share: float
    cluster_prob: float
    cluster_mm: float
    satellite_prob: float
    satellites: tuple[int, int]
    satellite_from_mm: float
    satellite_radius_mm: Range
    satellite_mm: float
    cirrhosis_prob: float
    surface_mm: Range
    nodule_hu: Range
    growth: bool
    kinds: tuple[LesionKind, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _kinds(value) if field.name == "kinds" else _as_tuple(value))
        _check(self)

    def digest(self) -> str:
        """Short hash of every figure: tells whether two presets draw the same."""
        figures = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16]


def _kinds(value: Any) -> tuple[LesionKind, ...]:
    """Kinds as YAML gives them: mappings."""
    kinds = []
    for kind in value:
        if isinstance(kind, dict):
            kind = LesionKind(**{name: _as_tuple(part) for name, part in kind.items()})
        if not isinstance(kind, LesionKind):
            raise ValueError(f"kinds must hold LesionKind or mappings of its fields, got {kind!r}")
        kinds.append(kind)
    return tuple(kinds)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, (list, tuple)) else value


_RANGES = (
    *("count", "satellites", "axis_ratio", "irregularity", "lobulation", "spiculation", "texture_mm", "edge_mm", "mass_effect", "bulge"),
    *("halo_mm", "satellite_radius_mm", "surface_mm", "nodule_hu"),
)
_PROBS = ("inside_share", "cluster_prob", "satellite_prob", "cirrhosis_prob")
_LENGTHS = (
    "edge_share",
    "cnr_floor",
    "least_organ_hu",
    "apart_mm",
    "cluster_mm",
    "satellite_from_mm",
    "satellite_mm",
    "curriculum_samples",
    "avoid_vessels_to_mm",
    *_PROBS,
)
_SWITCHES = ("avoid_vessels", "growth")
MOST_LESIONS = 64


def _check(preset: LesionPreset) -> None:
    """Refuse figures that cannot be drawn from."""
    for name, length in {"size_mm": 5, "size_prob": 4, "size_prob_start": 4, "halo": 2, **dict.fromkeys(_RANGES, 2)}.items():
        value = getattr(preset, name)
        if not isinstance(value, tuple) or len(value) != length or not all(_is_number(part) for part in value):
            raise ValueError(f"{name} must hold {length} finite numbers, got {value}")
    for name in _LENGTHS:
        if not _is_number(getattr(preset, name)):
            raise ValueError(f"{name} must be a finite number, got {getattr(preset, name)!r}")
    for name in _SWITCHES:
        if not isinstance(getattr(preset, name), bool):
            raise ValueError(f"{name} must be true or false, got {getattr(preset, name)!r}")
    for name in _RANGES:
        low, high = getattr(preset, name)
        if not 0 <= low <= high:
            raise ValueError(f"{name} must be (low, high) with 0 ≤ low ≤ high, got {(low, high)}")
    for name in _PROBS:
        if not 0 <= getattr(preset, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(preset, name)}")
    _check_sizes(preset)
    _check_kinds(preset)


def _check_sizes(preset: LesionPreset) -> None:
    """Refuse sizes and counts that contradict each other."""
    if not all(low < high for low, high in zip(preset.size_mm, preset.size_mm[1:], strict=False)) or preset.size_mm[0] <= 0:
        raise ValueError(f"size_mm must rise from above 0, got {preset.size_mm}")
    for name in ("count", "satellites"):
        if any(part != int(part) for part in getattr(preset, name)):
            raise ValueError(f"{name} must hold whole numbers, got {getattr(preset, name)}")
    if preset.count[1] + preset.satellites[1] > MOST_LESIONS:
        raise ValueError(f"count and satellites must come to {MOST_LESIONS} at most, got {preset.count[1]} + {preset.satellites[1]}")
    for name in ("axis_ratio", "texture_mm", "edge_mm", "halo_mm", "satellite_radius_mm"):
        if getattr(preset, name)[0] <= 0:
            raise ValueError(f"{name} must be above 0, got {getattr(preset, name)}")
    if preset.halo[0] > preset.halo[1]:
        raise ValueError(f"halo must be (low, high) with low ≤ high, got {preset.halo}; swap them")
    if preset.curriculum_samples < 0 or preset.curriculum_samples != int(preset.curriculum_samples):
        raise ValueError(f"curriculum_samples must be a whole number from 0 on, got {preset.curriculum_samples}")
    if preset.satellite_prob > 0 and preset.satellites[1] == 0:
        raise ValueError("satellites must be above 0 where satellite_prob is, got (0, 0); set satellite_prob to 0 for none")
    if max(preset.bulge[1], preset.mass_effect[1]) > 100:
        raise ValueError(f"mass_effect and bulge must be 100 percent at most, got {preset.mass_effect} and {preset.bulge}")


def _check_kinds(preset: LesionPreset) -> None:
    """Refuse kinds that cannot be drawn, or do not add up."""
    names = [kind.name for kind in preset.kinds]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"kinds must hold at least one, each with a name of its own, got {names}")
    sizes = (("size_prob", preset.size_prob), ("size_prob_start", preset.size_prob_start))
    for name, probs in (*sizes, ("kinds' prob", tuple(kind.prob for kind in preset.kinds))):
        if any(prob < 0 for prob in probs) or abs(sum(probs) - 1.0) > 1e-6:
            raise ValueError(f"{name} must add up to 1, got {probs}, which adds up to {sum(probs):g}")
    for kind in preset.kinds:
        for field in fields(kind):
            value, what = getattr(kind, field.name), f"{field.name} of kind {kind.name!r}"
            if isinstance(value, tuple) and not (len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]):
                raise ValueError(f"{what} must be (low, high) with low ≤ high, got {value}")
            if not isinstance(value, (tuple, str, bool)) and not _is_number(value):
                raise ValueError(f"{what} must be a finite number, got {value!r}")
        if kind.edge <= 0 or kind.capsule_mm <= 0:
            raise ValueError(f"edge and capsule_mm of kind {kind.name!r} must be above 0, got {kind.edge} and {kind.capsule_mm}")
        if kind.outline < 0:
            raise ValueError(f"outline of kind {kind.name!r} must be 0 or above, got {kind.outline}")
        if not 0 <= kind.speck_share < 1:
            raise ValueError(f"speck_share of kind {kind.name!r} must lie in [0, 1), got {kind.speck_share}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""What lesions are drawn from, one by one: sizes, outlines, kinds and contrasts; figures have a source, or are said to be our choice."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from gpu_synth.lesion_kind import LesionKind, Range, as_tuple, is_number, kinds_of


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
        avoid_vessels_to_mm: Radius up to which they do; larger ones lie anywhere.
        displace_vessels: Whether lesions take the place of vessels that they lie over, and of fat that the mask holds; else these shine
            through.
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
    displace_vessels: bool
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
            object.__setattr__(self, field.name, kinds_of(value) if field.name == "kinds" else as_tuple(value))
        _check(self)
        for name in ("count", "satellites"):
            object.__setattr__(self, name, tuple(int(part) for part in getattr(self, name)))

    def digest(self) -> str:
        """Short hash of every figure: tells whether two presets draw the same."""
        figures = {key: _as_floats(value) for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16]


def _as_floats(value: Any) -> Any:
    """Numbers as floats, so that 1 and 1.0 are the same figure."""
    if isinstance(value, dict):
        return {key: _as_floats(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_floats(part) for part in value]
    return float(value) if is_number(value) else value


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
_SIGNED = ("apart_mm", "least_organ_hu")
_SWITCHES = ("avoid_vessels", "displace_vessels", "growth")
MOST_LESIONS = 64


def _check(preset: LesionPreset) -> None:
    """Refuse figures that cannot be drawn from."""
    for name, length in {"size_mm": 5, "size_prob": 4, "size_prob_start": 4, "halo": 2, **dict.fromkeys(_RANGES, 2)}.items():
        value = getattr(preset, name)
        if not isinstance(value, tuple) or len(value) != length or not all(is_number(part) for part in value):
            mend = f"; for no other give it twice: ({value}, {value})" if length == 2 and is_number(value) else ""
            raise ValueError(f"{name} must hold {length} finite numbers, got {value}{mend}")
    for name in _LENGTHS:
        value = getattr(preset, name)
        if not is_number(value) or (value < 0 and name not in _SIGNED):
            raise ValueError(f"{name} must be a finite number{'' if name in _SIGNED else ' from 0 on'}, got {value!r}")
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
    slots = (preset.count[1], preset.satellites[1] if preset.satellite_prob > 0 else 0)
    if not 1 <= slots[0] <= sum(slots) <= MOST_LESIONS:
        raise ValueError(f"count and satellites must come to 1 to {MOST_LESIONS}, got {slots[0]} + {slots[1]}")
    if preset.cirrhosis_prob > 0 and preset.surface_mm[0] == 0:
        raise ValueError(f"surface_mm must be above 0 where cirrhosis_prob is, got {preset.surface_mm}")
    for name in ("axis_ratio", "texture_mm", "edge_mm", "halo_mm", "satellite_radius_mm"):
        if getattr(preset, name)[0] <= 0:
            raise ValueError(f"{name} must be above 0, got {getattr(preset, name)}")
    if preset.halo[0] > preset.halo[1]:
        raise ValueError(f"halo must be (low, high) with low ≤ high, got {preset.halo}; swap them")
    if preset.curriculum_samples != int(preset.curriculum_samples):
        raise ValueError(f"curriculum_samples must be a whole number, got {preset.curriculum_samples}")
    if preset.satellite_prob > 0 and preset.satellites[1] == 0:
        raise ValueError("satellites must be above 0 where satellite_prob is, got (0, 0); set satellite_prob to 0 for none")
    if max(preset.bulge[1], preset.mass_effect[1]) > 100:
        raise ValueError(f"mass_effect and bulge must be 100 percent at most, got {preset.mass_effect} and {preset.bulge}")


def _check_kinds(preset: LesionPreset) -> None:
    """Refuse kinds that do not add up."""
    names = [kind.name for kind in preset.kinds]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"kinds must hold at least one, each with a name of its own, got {names}")
    sizes = (("size_prob", preset.size_prob), ("size_prob_start", preset.size_prob_start))
    for name, probs in (*sizes, ("kinds' prob", tuple(kind.prob for kind in preset.kinds))):
        if any(prob < 0 for prob in probs) or abs(sum(probs) - 1.0) > 1e-6:
            raise ValueError(f"{name} must add up to 1, got {probs}, which adds up to {sum(probs):g}; divide by that")

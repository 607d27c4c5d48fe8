"""What lesions are drawn from, one by one: sizes, outlines, kinds and contrasts; figures have a source, or are said to be our choice."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gpu_synth.kernels._cached import cached
from gpu_synth.kernels.traits import Kind, Scan

Range = tuple[float, float]
NO_SPECKS = 9.0  # standard deviations of its texture that a speck's waves would have to exceed


@dataclass(frozen=True)
class LesionKind:
    """A kind of lesion. Contrasts are shares of the organ's HU, so that one figure serves every contrast phase.

    Attributes:
        name: Such as "hypodense".
        prob: Its share of all lesions.
        body: Contrast; HU of its own where `target` is set.
        target: Whether the body has HU of its own, as water has.
        core: What the core adds to the body.
        core_share: Radius of the core, a share of the lesion's.
        rim: What the rim adds to the body.
        texture: Standard deviation of the texture, a share of the body's contrast.
        speck_hu: HU of calcified specks.
        speck_share: Share of the volume that is speck.
        edge: Factor on the width of the edge.
    """

    name: str
    prob: float
    body: Range
    target: bool = False
    core: Range = (0.0, 0.0)
    core_share: Range = (0.5, 0.5)
    rim: Range = (0.0, 0.0)
    texture: Range = (0.05, 0.2)
    speck_hu: Range = (0.0, 0.0)
    speck_share: float = 0.0
    edge: float = 1.0

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
        }


@dataclass(frozen=True)
class LesionPreset:
    """Everything that is drawn for a scan, and from what. A range is `(low, high)`, uniform; lengths are millimetres.

    Attributes:
        name: Name of the preset it came from.
        count: Lesions of a scan, inclusive.
        size_mm: Ends of four bins of radius (of the ball of as much volume); within a bin it is log-uniform.
        size_prob: Probability of each bin: the weight of the small ones.
        axis_ratio: Second and third semi-axis of the ellipsoid, in first ones.
        irregularity: Standard deviation of bumps in the outline, in radii.
        lobulation: Height of lobes, in radii.
        spiculation: Height of spikes, in radii.
        texture_mm: Wavelength of textures.
        edge_share: Width of the edge (standard deviation), a share of the radius.
        edge_mm: Least and most of it.
        cnr_floor: Least contrast of a body, in standard deviations of the scan's noise.
        least_organ_hu: Organs of fewer HU get contrasts as if of these.
        mass_effect: Strength with which a lesion pushes the tissue around it outward, percent; 0 is none.
        apart_mm: Distance between lesions; below −1000 they may merge.
        avoid_vessels: Whether lesions keep away from vessels, in scans that show them.
        kinds: What kinds there are.
    """

    name: str
    count: tuple[int, int]
    size_mm: tuple[float, float, float, float, float]
    size_prob: tuple[float, float, float, float]
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
    apart_mm: float
    avoid_vessels: bool
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


def _check(preset: LesionPreset) -> None:
    """Refuse figures that cannot be drawn from."""
    lengths = {"count": 2, "size_mm": 5, "size_prob": 4}
    ranges = ("axis_ratio", "irregularity", "lobulation", "spiculation", "texture_mm", "edge_mm", "mass_effect", "count")
    for name in (*lengths, *ranges):
        value, length = getattr(preset, name), lengths.get(name, 2)
        if not isinstance(value, tuple) or len(value) != length or not all(_is_number(part) for part in value):
            raise ValueError(f"{name} must hold {length} finite numbers, got {value}")
    for name in ranges:
        low, high = getattr(preset, name)
        if not 0 <= low <= high:
            raise ValueError(f"{name} must be (low, high) with 0 ≤ low ≤ high, got {(low, high)}")
    if not all(low < high for low, high in zip(preset.size_mm, preset.size_mm[1:], strict=False)) or preset.size_mm[0] <= 0:
        raise ValueError(f"size_mm must rise from above 0, got {preset.size_mm}")
    if preset.count[1] > 64 or any(part != int(part) for part in preset.count):
        raise ValueError(f"count must hold whole numbers up to 64, got {preset.count}")
    if preset.axis_ratio[0] <= 0 or preset.texture_mm[0] <= 0 or preset.edge_mm[0] <= 0:
        raise ValueError(
            f"axis_ratio, texture_mm and edge_mm must be above 0, got {preset.axis_ratio}, {preset.texture_mm}, {preset.edge_mm}"
        )
    for name, probs in (("size_prob", preset.size_prob), ("kinds' prob", tuple(kind.prob for kind in preset.kinds))):
        if any(prob < 0 for prob in probs) or abs(sum(probs) - 1.0) > 1e-6:
            raise ValueError(f"{name} must add up to 1, got {probs}, which adds up to {sum(probs):g}")
    for kind in preset.kinds:
        for field in fields(kind):
            value = getattr(kind, field.name)
            if isinstance(value, tuple) and not (len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]):
                raise ValueError(f"{field.name} of kind {kind.name!r} must be (low, high) with low ≤ high, got {value}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@cached(maxsize=16)
def lesion_table(preset: LesionPreset, prob: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pack a preset into the flat table that `kernels.traits` reads: the scan's row, and a row for each kind."""
    scan = torch.zeros(Scan.COLUMNS, dtype=torch.float32)
    columns: dict[Scan, Sequence[float]] = {
        Scan.ALTER_PROB: (prob,),
        Scan.EDGE_SHARE: (preset.edge_share,),
        Scan.CNR_FLOOR: (preset.cnr_floor,),
        Scan.ORGAN_HU: (preset.least_organ_hu,),
        Scan.SIZE_END: torch.tensor(preset.size_prob, dtype=torch.float64).cumsum(0).tolist(),
    }
    for column in (
        Scan.COUNT,
        Scan.AXIS_RATIO,
        Scan.IRREGULARITY,
        Scan.LOBULATION,
        Scan.SPICULATION,
        Scan.TEXTURE_MM,
        Scan.EDGE_MM,
        Scan.SIZE_MM,
        Scan.MASS_EFFECT,
    ):
        columns[column] = getattr(preset, column.name.lower())
    for column, values in columns.items():
        scan[column : column + len(values)] = torch.tensor(values, dtype=torch.float32)
    kinds = torch.zeros(len(preset.kinds), Kind.COLUMNS, dtype=torch.float32)
    kinds[:, Kind.END] = torch.tensor([kind.prob for kind in preset.kinds], dtype=torch.float64).cumsum(0)
    for row, kind in zip(kinds, preset.kinds, strict=True):
        for column_, values in kind.row().items():
            row[column_ : column_ + len(values)] = torch.tensor(values, dtype=torch.float32)
    return scan.to(device, non_blocking=True), kinds.to(device, non_blocking=True)


# Our choice throughout, where no source is named. Sizes: radius 2 to 44 mm, as tumours in LiTS have it (facts on training data); four of
# ten lesions under 5 mm, which at 3.5 lesions a patch is 1.4 of them. Kinds: mostly hypodense, as metastases and cholangiocarcinomas in the
# portal-venous phase; hyperdense as hypervascular metastases; cysts near water (0 to 18 HU); rims as in target lesions. Mass effect: around
# the 30 % of Hu et al. 2023.
LIVER = LesionPreset(
    name="liver",
    count=(1, 6),
    size_mm=(2.0, 5.0, 10.0, 20.0, 44.0),
    size_prob=(0.4, 0.3, 0.2, 0.1),
    axis_ratio=(0.65, 1.0),
    irregularity=(0.03, 0.10),
    lobulation=(0.0, 0.18),
    spiculation=(0.0, 0.0),
    texture_mm=(6.0, 16.0),
    edge_share=0.12,
    edge_mm=(0.35, 1.2),
    cnr_floor=1.0,
    least_organ_hu=40.0,
    mass_effect=(10.0, 40.0),
    apart_mm=2.0,
    avoid_vessels=True,
    kinds=(
        LesionKind("hypodense", 0.50, body=(-0.55, -0.20), texture=(0.05, 0.25)),
        LesionKind("hyperdense", 0.10, body=(0.15, 0.45)),
        LesionKind("target", 0.14, body=(-0.50, -0.25), rim=(0.20, 0.50)),
        LesionKind("cyst", 0.10, body=(0.0, 18.0), target=True, texture=(0.0, 0.02), edge=0.6),
        LesionKind("necrotic", 0.10, body=(-0.30, -0.15), core=(-0.50, -0.30), core_share=(0.45, 0.75), texture=(0.10, 0.25)),
        LesionKind("calcified", 0.06, body=(-0.45, -0.20), speck_hu=(120.0, 400.0), speck_share=0.03),
    ),
)

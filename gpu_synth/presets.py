"""What to draw from: one preset an organ or paper, each figure with its source.

A range is `(low, high)`. Lengths are millimetres; where a paper works on 1 mm voxels, its voxels are these millimetres.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from gpu_synth.idle_figures import check_effective
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.organs import ORGANS

Range = tuple[float, float]
IntRange = tuple[int, int]

SIZE_GROUPS = ("tiny", "small", "medium", "large")
SIZE_CLASSES = (*SIZE_GROUPS, "mix")  # "mix" draws lesions of all four groups into one scan


@dataclass(frozen=True)
class Preset:
    """Everything that is drawn for a scan, and from what. Tuples of four follow `SIZE_GROUPS`; of five, `SIZE_CLASSES`.

    Attributes:
        name: Name of the preset it came from.
        class_prob: Probability of each size class of a scan.
        base_radius_mm: A lesion's box is four of these a side.
        radius_mm: Semi-axes, integers in millimetres, uniform, both ends inclusive.
        count: Lesions in a scan of the one group, inclusive.
        mix_count: Lesions of each group in a scan of class "mix", inclusive.
        elastic_sigma_mm: Standard deviation of the elastic displacements at their control points, uniform.
        elastic_sigma_integer: Whether that deviation is an integer, both ends inclusive.
        extent: Shares of the organ's axial extent between which lesions are centred.
        erosion_mm: Distance that a lesion's centre keeps from the organ's edge in its axial slice; at least one voxel.
        density_sigma_mm: Width of the smoothing that makes the salt noise denser here than there.
        density_scale: Range of the density, after it is normalised to [0, 1].
        density_offset: Its lowest value.
        grain_fine_prob: Probability that the grain is fine rather than coarse.
        grain_fine_sigma_mm: Width of the smoothing of the salt noise, fine.
        grain_coarse_sigma_mm: The same, coarse.
        texture_threshold: Grain above it counts in the mean to which the texture is scaled.
        texture_gain: Mean of the texture where the grain is above the threshold.
        edge_sigma_mm: Width of the blur of lesion edges.
        contrast_hu: Difference between lesion and organ at full texture; negative is darker than the organ.
        axial_axis: Spatial axis across the axial slices: 2 in RAS.
    """

    name: str
    class_prob: tuple[float, float, float, float, float]
    base_radius_mm: tuple[float, float, float, float]
    radius_mm: tuple[IntRange, IntRange, IntRange, IntRange]
    count: tuple[IntRange, IntRange, IntRange, IntRange]
    mix_count: tuple[IntRange, IntRange, IntRange, IntRange]
    elastic_sigma_mm: tuple[Range, Range, Range, Range]
    elastic_sigma_integer: tuple[bool, bool, bool, bool]
    extent: Range
    erosion_mm: float
    density_sigma_mm: Range
    density_scale: Range
    density_offset: Range
    grain_fine_prob: float
    grain_fine_sigma_mm: Range
    grain_coarse_sigma_mm: Range
    texture_threshold: float
    texture_gain: Range
    edge_sigma_mm: Range
    contrast_hu: Range
    axial_axis: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _as_tuples(getattr(self, field.name)))
        _check(self)

    def digest(self) -> str:
        """Short hash of every figure: tells whether two presets draw the same."""
        figures = {key: [float(leaf) for leaf in _leaves(value)] for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16]


def _as_tuples(value: Any) -> Any:
    """Lists, as YAML and the command line give them, become tuples."""
    return tuple(_as_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, tuple) else [value]


def _shape(hint: Any) -> tuple[int, ...]:
    """Nested lengths of a type such as `tuple[tuple[int, int], tuple[int, int]]`."""
    items = get_args(hint) if get_origin(hint) is tuple else ()
    return (len(items), *_shape(items[0])) if items else ()


def _is_of(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value has these nested lengths, in every branch."""
    if not shape:
        return not isinstance(value, tuple)
    return isinstance(value, tuple) and len(value) == shape[0] and all(_is_of(item, shape[1:]) for item in value)


def _check(preset: Preset) -> None:
    """Refuse figures that cannot be drawn from."""
    for name, hint in get_type_hints(Preset).items():
        value = getattr(preset, name)
        if name != "name":
            _check_numbers(name, value, _shape(hint))
    for names_, low, high in _LIMITS:
        for name in names_:
            if not all(low <= leaf <= high for leaf in _leaves(getattr(preset, name))):
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {getattr(preset, name)}")
    for name in ("radius_mm", "count", "mix_count", "axial_axis"):
        if any(leaf != int(leaf) for leaf in _leaves(getattr(preset, name))):
            raise ValueError(f"{name} must hold whole numbers, got {getattr(preset, name)}")
    for sigmas, whole in zip(preset.elastic_sigma_mm, preset.elastic_sigma_integer, strict=True):
        if whole and any(limit != int(limit) for limit in sigmas):
            raise ValueError(
                f"elastic_sigma_mm must hold whole numbers where elastic_sigma_integer is set, got {sigmas}; round them, or set "
                "elastic_sigma_integer to false there"
            )
    if abs(sum(preset.class_prob) - 1.0) > 1e-6:
        raise ValueError(f"class_prob must add up to 1, got {preset.class_prob}, which adds up to {sum(preset.class_prob):g}")
    for (_, high), base in zip(preset.radius_mm, preset.base_radius_mm, strict=True):
        if high > 2 * base:
            raise ValueError(f"radius_mm must be at most twice base_radius_mm, got {high} against {base}; raise base_radius_mm")


def _check_numbers(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if not _is_of(value, shape):
        raise ValueError(f"{name} must hold {'×'.join(map(str, shape)) or 'one'} number(s), got {value}")
    if not all(isinstance(leaf, (int, float)) and math.isfinite(leaf) for leaf in _leaves(value)):
        raise ValueError(f"{name} must hold finite numbers, got {value}")
    ranges = value if len(shape) == 2 else (value,) if shape == (2,) else ()
    if any(low > high for low, high in ranges):
        raise ValueError(f"{name} must be (low, high) with low ≤ high, got {value}; swap them")


# names, lowest, highest
_LIMITS = (
    (("class_prob", "extent", "grain_fine_prob", "texture_threshold", "density_scale", "density_offset"), 0.0, 1.0),
    (("radius_mm", "base_radius_mm"), 1.0, 200.0),
    (("density_sigma_mm", "grain_fine_sigma_mm", "grain_coarse_sigma_mm"), 0.5, 200.0),
    (("elastic_sigma_mm", "erosion_mm", "edge_sigma_mm", "texture_gain"), 0.0, 100.0),
    (("count", "mix_count"), 0, 64),
    (("contrast_hu",), -2000.0, 2000.0),
    (("axial_axis",), 0, 2),
)

# Hu et al. 2022 and 2023 ("Synthetic Tumors Make AI Segment Tumors Better"; "Label-Free Liver Tumor Segmentation"), as published;
# texture drawn fresh, where the authors crop one of ten volumes that they made beforehand.
_LIVER_HU2022 = Preset(
    name="liver-hu2022",
    class_prob=(0.2, 0.2, 0.2, 0.2, 0.2),
    base_radius_mm=(4.0, 8.0, 16.0, 32.0),
    radius_mm=((3, 5), (6, 10), (12, 20), (24, 40)),
    count=((3, 10), (3, 10), (2, 5), (1, 3)),
    mix_count=((3, 10), (5, 10), (2, 5), (1, 3)),
    elastic_sigma_mm=((0.5, 1.0), (1.0, 2.0), (3.0, 6.0), (5.0, 10.0)),
    elastic_sigma_integer=(False, True, True, True),
    extent=(0.3, 0.7),
    erosion_mm=2.0,
    density_sigma_mm=(3.0, 15.0),
    density_scale=(0.19, 0.21),
    density_offset=(0.04, 0.06),
    grain_fine_prob=0.7,
    grain_fine_sigma_mm=(3.0, 5.0),
    grain_coarse_sigma_mm=(5.0, 8.0),
    texture_threshold=0.12,
    texture_gain=(0.5, 0.55),
    edge_sigma_mm=(1.0, 2.0),
    contrast_hu=(-145.0, -65.0),
)

_OPTIONS = ("preset", "prob", "seed", "backend", "scope", "organ_label", "tumor_label", "graph")  # of `TumorSynthesizer`
_PRESETS: dict[str, Preset | LesionPreset] = {preset.name: preset for preset in (_LIVER_HU2022, *ORGANS)}


def names() -> tuple[str, ...]:
    """List the presets."""
    return tuple(_PRESETS)


def published(**overrides: Any) -> Preset:
    """Preset "liver-hu2022", with some of its figures changed."""
    return replace(_LIVER_HU2022, **overrides)


def get(name: "str | Preset | LesionPreset" = "", /, **overrides: Any) -> Preset | LesionPreset:
    """Look a preset up, with some of its figures changed.

    Args:
        name: One of `names()`; a YAML file of one's own: `name` of the preset that it starts from, and fields that differ; or a preset.
        **overrides: Fields of the preset and their new values.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The name or a field is unknown (the nearest is named), a value is out of its range, or cannot have any effect.
    """
    name = name or overrides.pop("name", "")  # by keyword, as MONAI's ConfigParser calls it
    start = _named(name) if isinstance(name, str) else name
    if not isinstance(start, (Preset, LesionPreset)):
        raise ValueError(f"preset must be a name, a YAML file or a preset, got {type(name).__name__}; such as 'liver'")
    known = [field.name for field in fields(start) if field.name != "name"]
    for key in overrides:
        if key not in known:
            mend = "; it is an option of its own, not of the preset" if key in _OPTIONS else _nearest(key, known)
            raise ValueError(f"preset field must be one of {', '.join(known)}, got {key!r}{mend}")
    preset = replace(start, **overrides)
    check_effective(preset, start)
    return preset


def _named(name: str) -> Preset | LesionPreset:
    """A preset of this project's, or of a file's."""
    if name.endswith((".yaml", ".yml")):
        figures = _figures(Path(name))
        if not isinstance(figures, dict) or not isinstance(figures.get("name"), str):
            raise ValueError(f"preset must be a YAML file that names the preset it starts from, got {name}; presets.to_yaml() writes one")
        return get(figures.pop("name"), **figures)
    if name not in _PRESETS:
        raise ValueError(f"preset must be one of {', '.join(names())}, got {name!r}{_nearest(name, names())}")
    return _PRESETS[name]


def _figures(path: Path) -> Any:
    """What a preset's file holds."""
    if not path.is_file():
        raise FileNotFoundError(f"preset must be one of {', '.join(names())}, or a YAML file, got {path}; there is no such file")
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"preset must be a YAML file, got {path}: {' '.join(str(error).split())}") from error


def to_yaml(name: str, **overrides: Any) -> str:
    """Write a preset down, with some of its figures changed: a file of this text is what `get` reads."""
    return yaml.safe_dump(json.loads(json.dumps(asdict(get(name, **overrides)))), sort_keys=False, default_flow_style=None, width=120)


def _nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    close = get_close_matches(str(word), known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""

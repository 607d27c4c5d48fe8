"""Figures of a preset that someone gives and that nothing would come of: refused, so that no run is thought to have what it lacks.

Only what differs from the preset that one starts from counts as given: its own figures may lie idle, such as how wide a halo would be.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

from gpu_synth.lesion_kind import LesionKind
from gpu_synth.lesion_preset import LesionPreset


class Law(NamedTuple):
    """When figures have no effect.

    Attributes:
        names: The figures.
        is_idle: Whether they have none, of a preset or a kind.
        where: The same in words; braces hold figures.
        mend: What gives them one.
    """

    names: tuple[str, ...]
    is_idle: Callable[[Any], bool]
    where: str
    mend: str


_SATELLITES = ("satellites", "satellite_from_mm", "satellite_radius_mm", "satellite_mm")
_OUTLINE = ("axis_ratio", "irregularity", "lobulation", "spiculation")
_NONE = (0.0, 0.0)

_OF_LESION_PRESETS = (
    Law(("size_prob_start",), lambda p: p.curriculum_samples == 0, "curriculum_samples is 0", "give curriculum_samples, its length"),
    Law(
        ("curriculum_samples",),
        lambda p: p.size_prob_start == p.size_prob,
        "size_prob_start is size_prob, {size_prob}",
        "give size_prob_start, what the curriculum begins with",
    ),
    Law(_OUTLINE, lambda p: p.growth, "growth is True", "lesions that grow have no outline: growth=False gives them one"),
    Law(("halo", "halo_mm"), lambda p: p.growth, "growth is True", "lesions that grow change nothing around them: growth=False has halos"),
    Law(("halo_mm",), lambda p: p.halo == _NONE, "halo is (0, 0)", "give halo, its share of the organ's HU"),
    Law(("edge_share",), lambda p: p.edge_mm[0] == p.edge_mm[1], "edge_mm is one width, {edge_mm}", "give edge_mm two ends"),
    Law(("avoid_vessels_to_mm",), lambda p: not p.avoid_vessels, "avoid_vessels is False", "set avoid_vessels to True"),
    Law(("cluster_mm",), lambda p: p.cluster_prob == 0, "cluster_prob is 0", "give cluster_prob"),
    Law(("cluster_prob", "cluster_mm"), lambda p: p.count[1] < 2, "scans have one lesion, count {count}", "give count two or more"),
    Law(_SATELLITES, lambda p: p.satellite_prob == 0, "satellite_prob is 0", "give satellite_prob"),
    Law(
        ("satellite_prob", *_SATELLITES),
        lambda p: _most_mm(p) <= p.satellite_from_mm,
        "no lesion has the radius that satellites need, satellite_from_mm {satellite_from_mm}",
        "lower satellite_from_mm, or raise size_mm or the share of the large in size_prob",
    ),
    Law(("surface_mm", "nodule_hu"), lambda p: p.cirrhosis_prob == 0, "cirrhosis_prob is 0", "give cirrhosis_prob"),
)
_OF_PUBLISHED = (
    Law(("mix_count",), lambda p: p.class_prob[-1] == 0, "no scan is of class mix, class_prob {class_prob}", "give mix a share there"),
    Law(("count",), lambda p: p.class_prob[-1] == 1, "every scan is of class mix, class_prob {class_prob}", "give mix_count"),
    Law(("grain_fine_sigma_mm",), lambda p: p.grain_fine_prob == 0, "grain_fine_prob is 0", "raise grain_fine_prob"),
    Law(("grain_coarse_sigma_mm",), lambda p: p.grain_fine_prob == 1, "grain_fine_prob is 1", "lower grain_fine_prob"),
)
_OF_KINDS = (
    Law(("core_share",), lambda k: k.core == _NONE, "core is (0, 0)", "give core, what it adds to the body"),
    Law(("speck_hu",), lambda k: k.speck_share == 0, "speck_share is 0", "give speck_share, the share of the volume that is speck"),
    Law(("speck_share",), lambda k: k.speck_hu == _NONE, "speck_hu is (0, 0)", "give speck_hu, what specks add"),
    Law(("capsule_mm",), lambda k: k.capsule_hu == _NONE, "capsule_hu is (0, 0)", "give capsule_hu, its brightness"),
)
_PLAIN_KIND = LesionKind("plain", prob=1.0, body=_NONE)


def check_effective(preset: Any, start: Any) -> None:
    """Refuse a figure that was given and cannot have any effect.

    Args:
        preset: `Preset` or `LesionPreset`, with what was given.
        start: The one that it started from, of the same type.

    Raises:
        ValueError: There is such a figure.
    """
    laws = _OF_LESION_PRESETS if isinstance(preset, LesionPreset) else _OF_PUBLISHED
    _check("", preset, start, laws)
    for kind in getattr(preset, "kinds", ()):
        known = next((known for known in start.kinds if known.name == kind.name), _PLAIN_KIND)
        _check(f" of kind {kind.name!r}", kind, known, _OF_KINDS)


def _check(of: str, figures: Any, start: Any, laws: tuple[Law, ...]) -> None:
    for name, law in _given(figures, start, laws):
        if law.is_idle(figures):
            where = law.where.format(**{field.name: getattr(figures, field.name) for field in fields(figures)})
            raise ValueError(f"{name}{of} must be left out where {where}, got {getattr(figures, name)}; {law.mend}")


def _given(figures: Any, start: Any, laws: tuple[Law, ...]) -> Iterator[tuple[str, Law]]:
    """Figures that differ from where one started, with each law that they are under."""
    return ((name, law) for law in laws for name in law.names if getattr(figures, name) != getattr(start, name))


def _most_mm(preset: LesionPreset) -> float:
    """The largest radius that a preset draws, in any sample of a run."""
    ends = zip(preset.size_mm[1:], preset.size_prob, preset.size_prob_start if preset.curriculum_samples else preset.size_prob, strict=True)
    return max(end for end, *probs in ends if max(probs) > 0)

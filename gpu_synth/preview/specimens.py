"""Specimens: one lesion of each kind and size that a preset can draw, each planned and rendered by itself in one scan."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.checks import check_images, check_spacing
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.plan_base import Spacing
from gpu_synth.presets import SIZE_GROUPS, Preset
from gpu_synth.preview.slices import AXIAL, fullest, organ_box
from gpu_synth.render import Render

RADII_MM = (3.0, 6.0, 12.0, 24.0)
CONTEXT_MM = 40.0  # of the scan around the organ, that lesions are planned in and may push aside
TRIES = 8  # uids, before there is said to be no place
UIDS = 2**16  # that one set of specimens has for itself
UID_LIMIT = 2**63 // UIDS


class Specimen(NamedTuple):
    """A lesion to be shown.

    Attributes:
        kind: Its kind; its size class, where a preset knows no kinds.
        size: Its size, in words.
        radius_mm: Of the ball of as much volume.
        figures: Fields of the preset that make it draw nothing else.
    """

    kind: str
    size: str
    radius_mm: float
    figures: Mapping[str, Any]


class Made(NamedTuple):
    """A specimen and what came of it.

    Attributes:
        specimen: What was to be shown.
        asked: The plan's record of the lesion; empty where there is none.
        record: The render's.
        healthy_hu: The scan's axial plane through the lesion.
        image_hu: The same with the lesion.
        tumor: The lesion's voxels in that plane.
        middle_mm: The lesion's middle in that plane, from the outer corner of its first voxel.
        why_not: Why there is no lesion.
    """

    specimen: Specimen
    asked: Mapping[str, Any] = {}
    record: Mapping[str, Any] = {}
    healthy_hu: NDArray[np.float32] = np.empty((0, 0), np.float32)
    image_hu: NDArray[np.float32] = np.empty((0, 0), np.float32)
    tumor: NDArray[np.bool_] = np.empty((0, 0), np.bool_)
    middle_mm: tuple[float, float] = (0.0, 0.0)
    why_not: str = ""


class _Scan(NamedTuple):
    """A scan, and the part of it that lesions are planned in."""

    image_hu: Tensor
    part_hu: Tensor
    part_label: Tensor
    part: tuple[slice, ...]
    spacing_mm: Spacing


def specimens(preset: Preset | LesionPreset) -> list[list[Specimen]]:
    """List what a preset can draw.

    Returns:
        A row for each kind that it draws, with those of `RADII_MM` that it draws, or one in the middle of its range where it draws none
        of them. Of the published preset, which knows no kinds, one row: its size classes.
    """
    if isinstance(preset, Preset):
        return [[_published(preset, group) for group in range(len(SIZE_GROUPS))]]
    least, most = preset.size_mm[0], preset.size_mm[-1]
    radii = [radius for radius in RADII_MM if least <= radius <= most] or [math.sqrt(least * most)]
    return [[_alone(preset, number, radius) for radius in radii] for number, kind in enumerate(preset.kinds) if kind.prob > 0]


def _alone(preset: LesionPreset, number: int, radius_mm: float) -> Specimen:
    kind = replace(preset.kinds[number], prob=1.0)
    size_mm = tuple(radius_mm * (1.0 + step * 1e-4) for step in range(-2, 3))  # a preset's sizes must rise
    return Specimen(kind.name, f"radius {radius_mm:.3g} mm", radius_mm, {"count": (1, 1), "size_mm": size_mm, "kinds": (kind,)})


def _published(preset: Preset, group: int) -> Specimen:
    (low, high), count = preset.radius_mm[group], ((1, 1),) * len(SIZE_GROUPS)
    class_prob = tuple(float(n == group) for n in range(len(SIZE_GROUPS) + 1))
    size, radius_mm = f"{SIZE_GROUPS[group]}, semi-axes {low:g}–{high:g} mm", float(preset.base_radius_mm[group])
    return Specimen(SIZE_GROUPS[group], size, radius_mm, {"count": count, "class_prob": class_prob})


def make_specimens(
    image_hu: Float[Tensor, "1 1 i j k"],
    label: Int[Tensor, "1 1 i j k"],
    preset: str,
    spacing_mm: Sequence[float],
    *,
    uid: int = 0,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> list[list[Made]]:
    """Plan and render each specimen by itself, in one scan.

    Args:
        image_hu: Healthy CT, RAS.
        label: Its organ, 1.
        preset: Name of what is drawn from.
        spacing_mm: Along i, j, k.
        uid: Which set of specimens; each specimen has a uid of its own, made of it.
        seed: Key of all randomness.
        overrides: Fields of the preset and their new values.

    Returns:
        Rows as `specimens` lists them.

    Raises:
        TypeError: An argument has a wrong type or dtype.
        ValueError: An argument has a wrong shape or value.
    """
    check_images(image_hu, label, 1, 2)
    spacing = check_spacing(spacing_mm, 1)[0]
    if isinstance(uid, bool) or not isinstance(uid, int) or not -UID_LIMIT <= uid < UID_LIMIT:
        raise ValueError(f"uid must be an integer from −2^47 up to 2^47 for a gallery, got {uid!r}; any small number does")
    drawn_from = presets.get(preset, **dict(overrides or {}))
    rows = specimens(drawn_from)
    organ = (label[0, 0] == 1).cpu().numpy()
    part, organ_ml = organ_box(organ, spacing, CONTEXT_MM), float(organ.sum() * math.prod(spacing) / 1000)
    scan = _Scan(image_hu, _box(image_hu, part), _box(label, part), part, spacing)
    uids = iter(range(UIDS * uid, UIDS * (uid + 1), TRIES))
    made: list[list[Made]] = [[] for _ in rows]
    every = [(n, specimen) for n, row in enumerate(rows) for specimen in row]  # minutes of work on a CPU: a bar says how far it is
    for (n, specimen), first in zip(track(every, "drawing", console=Console(stderr=True), transient=True), uids, strict=False):
        why_not = _unfit(specimen, organ_ml)
        alone = replace(drawn_from, **specimen.figures)  # in which other figures may lie idle
        synthesizer = TumorSynthesizer(alone, prob=1.0, seed=seed, scope="volume")
        made[n].append(Made(specimen, why_not=why_not) if why_not else _make(specimen, synthesizer, scan, first))
    return made


def _unfit(specimen: Specimen, organ_ml: float) -> str:
    """Why an organ cannot hold a specimen, if so."""
    lesion_ml = 4 / 3 * math.pi * specimen.radius_mm**3 / 1000
    if organ_ml == 0:
        return "no organ here"
    return f"organ too small: it has {organ_ml:.1f} ml, the lesion {lesion_ml:.1f} ml" if lesion_ml > organ_ml else ""


def _make(specimen: Specimen, synthesizer: TumorSynthesizer, scan: _Scan, uid: int) -> Made:
    """The specimen under the first uid that has a place for it."""
    for attempt in range(TRIES):
        uids = torch.tensor([uid + attempt], device=scan.part_hu.device)
        plan = synthesizer.plan(scan.part_hu, scan.part_label, scan.spacing_mm, uids)
        if plan.active.any():
            return _look(specimen, synthesizer.render(scan.part_hu, scan.part_label, plan), scan, synthesizer.tumor_label)
    return Made(specimen, why_not=f"no place in the organ, in {TRIES} tries")


def _look(specimen: Specimen, out: Render, scan: _Scan, tumor_label: int) -> Made:
    """Records of the largest lesion there, and the plane that shows most of it."""
    labelled = organ_box((out.label[0, 0] != 0).cpu().numpy(), scan.spacing_mm, max(scan.spacing_mm))
    records = _cut(out, labelled).records()  # depths under the surface are those in the whole, for less work
    if not records:
        return Made(specimen, why_not=f"holds no voxel, at {' × '.join(f'{mm:.2g}' for mm in scan.spacing_mm)} mm")
    record = max(records, key=lambda one: one["volume_mm3"])
    (asked,) = (one for one in out.plan.to_records() if one["lesion"] == record["lesion"])
    start = [side.start for side in scan.part]
    lesion = (out.instances[0, 0] == record["lesion"]).cpu().numpy()
    k = fullest(lesion, AXIAL)
    ends = (np.flatnonzero(lesion[:, :, k].any(axis=other)) + start[1 - other] for other in (1, 0))
    across, up = ((int(at[0]) + int(at[-1]) + 1) / 2 * mm for at, mm in zip(ends, scan.spacing_mm[:2], strict=True))
    healthy = scan.image_hu[0, 0, :, :, start[2] + k].float().cpu().numpy()
    image, tumor = healthy.copy(), np.zeros(healthy.shape, np.bool_)
    image[scan.part[:2]] = out.image[0, 0, :, :, k].float().cpu().numpy()
    tumor[scan.part[:2]] = (out.label[0, 0, :, :, k] == tumor_label).cpu().numpy()
    record = _moved(record, [first + side.start for first, side in zip(start, labelled, strict=True)])
    return Made(specimen, _moved(asked, start), record, healthy, image, tumor, (across, up))


def _cut(out: Render, box: tuple[slice, ...]) -> Render:
    """A box of a render."""
    volumes = {field.name: getattr(out, field.name) for field in fields(out)}
    cut: dict[str, Any] = {name: _box(volume, box) for name, volume in volumes.items() if isinstance(volume, Tensor)}
    return replace(out, **cut)


def _box(volume: Tensor, box: tuple[slice, ...]) -> Tensor:
    """A box of the one scan of a batch."""
    return volume[0, 0][box][None, None]


def _moved(record: Mapping[str, Any], by_vox: Sequence[int]) -> dict[str, Any]:
    """A record of a part of the scan, as one of the scan."""
    return {**record, "centre_vox": tuple(at + by for at, by in zip(record["centre_vox"], by_vox, strict=True))}

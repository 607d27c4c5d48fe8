"""What `gpu-synth preview` does: a scan from files, or a phantom, and one of three pictures of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.checks import check_range, check_spacing
from gpu_synth.conform import MOST_LABELS, describe, prepare_ct, prepare_label
from gpu_synth.files import check_folder_to_write
from gpu_synth.phantom import phantom
from gpu_synth.plan_base import Spacing
from gpu_synth.preview.comparison import COLOURS, comparison
from gpu_synth.preview.gallery import gallery as draw_gallery
from gpu_synth.preview.slices import organ_window, preview, save_png
from gpu_synth.preview.specimens import make_specimens
from gpu_synth.sources import Source
from gpu_synth.volumes import SPACING_LIMITS_MM

PRESET = "liver"
PHANTOM_MM = (300.0, 220.0, 210.0)  # holds a whole liver
PHANTOM_VOX = 300  # at most, along an axis: a fine spacing shows the liver's middle


def preview_files(
    *,
    out: str,
    image: str | None = None,
    label: str | None = None,
    gallery: bool = False,
    compare: tuple[str, ...] = (),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    organ_labels: tuple[int, ...] = (1,),
    organ_names: tuple[str, ...] = (),
    series: str | None = None,
    uid: int = 0,
    seed: int = 0,
    preset: str = PRESET,
    overrides: dict[str, Any] | None = None,
    window_hu: tuple[float, float] | None = None,
) -> None:
    """Draw one scan before and after synthesis; or, close up, a lesion of each kind and size; or presets side by side.

    Args:
        image: CT, NIfTI file or DICOM folder; without one, a phantom, whose anatomy follows uid and seed.
        label: Mask of its organ, NIfTI, RTSTRUCT or DICOM-SEG.
        out: PNG file to write; its folder is made.
        gallery: Draw a gallery: one lesion of each kind and size, each by itself, with its record.
        compare: Draw the same slices with each of these presets instead, such as liver-hu2022,liver; two to four.
        spacing_mm: Spacing to work on, along right, anterior, superior.
        organ_labels: Values of a NIfTI mask that are the organ.
        organ_names: Names of ROIs of an RTSTRUCT, or of segments of a DICOM-SEG, that are the organ, in any case.
        series: Where a DICOM folder holds several CTs, the one to take: its number, or a part of its description.
        uid: Which sample; another number, other tumours.
        seed: Key of all randomness.
        preset: What the tumours are drawn from: liver, liver-hu2022 (as published), liver-growth, pancreas, kidney, or a YAML file.
        overrides: Fields of the preset and their new values, such as count: [2, 4]; of an unknown one, the message lists them all.
        window_hu: HU shown as black and as white; by default 200 HU around the organ's median.

    Raises:
        ValueError: A file cannot be used, an argument is out of range, or arguments do not go together.
        ImportError: A DICOM-SEG is to be read without highdicom.
    """
    spacing = _check_spacing(spacing_mm)
    _check_case(image, label, organ_labels, organ_names, series)
    _check_picture(gallery, compare, preset, overrides)
    if not -(2**63) <= uid < 2**63:
        raise ValueError(f"uid must be an integer of 64 bits, got {uid}")
    if window_hu:
        check_range("window_hu", window_hu)
    synthesizers = {
        name: TumorSynthesizer(presets.get(name, **(overrides or {})), prob=1.0, seed=seed, scope="volume") for name in compare or (preset,)
    }
    if Path(out).is_dir():
        raise ValueError(f"out must be a file to write, got the folder {out}; name the file: {Path(out) / 'preview.png'}")
    if Path(out).suffix.lower() != ".png":
        raise ValueError(f"out must end in .png, got {out}; such as {out}.png")
    folder = check_folder_to_write("out's folder", Path(out).parent)
    if image and label:
        image_hu, organ = _read(image, label, spacing, organ_labels, organ_names=organ_names, series=series)
    else:
        image_hu, organ = _phantom(uid, seed, spacing)
    if gallery:
        rows = make_specimens(image_hu, organ, preset, spacing, uid=uid, seed=seed, overrides=overrides)
        title = f"{Path(preset).name}: each lesion made by itself, uid {uid}, seed {seed}"
        figure = draw_gallery(rows, title, spacing, window_hu or organ_window(image_hu[organ == 1]))
    elif compare:
        figure = comparison(image_hu, organ, synthesizers, spacing, uid, window_hu)
    else:
        figure = preview(image_hu, organ, synthesizers[preset], spacing, uid, window_hu)
    folder.mkdir(parents=True, exist_ok=True)
    save_png(figure, out)
    print(f"wrote {out}")


def _check_spacing(spacing_mm: Spacing) -> Spacing:
    spacing, (least, most) = check_spacing(spacing_mm, 1)[0], SPACING_LIMITS_MM
    if not all(least <= mm <= most for mm in spacing):
        raise ValueError(f"spacing_mm must be three numbers from {least} to {most}, got {spacing}; give millimetres, for instance 1,1,1")
    return spacing


def _check_case(
    image: str | None, label: str | None, organ_labels: tuple[int, ...], organ_names: tuple[str, ...], series: str | None
) -> None:
    if (image is None) != (label is None):
        raise ValueError(f"image and label must be given together, got {image=}, {label=}; leave out both for a phantom")
    if image is None and tuple(organ_labels) != (1,):
        raise ValueError(f"organ_labels must be left out where no label is given, got {tuple(organ_labels)}; a phantom's organ is 1")
    for name, value in (("organ_names", organ_names), ("series", series)):
        if image is None and value:
            raise ValueError(f"{name} must be left out where no image is given, got {value!r}; a phantom is no DICOM")
    if not organ_labels or not all(0 < value < MOST_LABELS for value in organ_labels):
        raise ValueError(f"organ_labels must be whole numbers from 1, at least one, got {tuple(organ_labels)}; 0 is background")


def _check_picture(gallery: bool, compare: tuple[str, ...], preset: str, overrides: dict[str, Any] | None) -> None:
    names = ",".join(compare)
    if gallery and compare:
        raise ValueError(f"compare must be left out of a gallery, got {names}; draw one picture, then the other")
    if compare and not 2 <= len(set(compare)) == len(compare) <= len(COLOURS):
        raise ValueError(f"compare must name two to {len(COLOURS)} different presets, got {names}; such as --compare liver-hu2022,liver")
    if compare and preset != PRESET:
        raise ValueError(f"preset must be left out where compare names the presets, got {preset!r}; add it to them: {names},{preset}")
    if compare and overrides:
        raise ValueError(
            f"overrides must be left out where compare names the presets, got {overrides}; write a preset of your own as YAML, as "
            "presets.to_yaml() does, and name its file"
        )


def _read(
    image: str, label: str, spacing_mm: Spacing, organ_labels: tuple[int, ...], *, organ_names: tuple[str, ...], series: str | None
) -> tuple[Tensor, Tensor]:
    """A CT and its organ, as `prepare` makes them; what looks odd is said."""
    source = Source(Path(image).name, Path(image), Path(label))
    scan, notes = prepare_ct(source.image, spacing_mm, series)
    mask, more = prepare_label(source, scan, organ_labels, (), organ_names=organ_names, series=series)
    for note in describe(source, scan, mask.data, notes + more).warnings:
        print(f"{source.name}: {note}")
    image_hu, organ = (torch.from_numpy(np.ascontiguousarray(x))[None, None] for x in (scan.data.astype(np.float32), mask.data))
    return image_hu, organ


def _phantom(uid: int, seed: int, spacing_mm: Spacing) -> tuple[Tensor, Tensor]:
    """A phantom with room for a whole liver."""
    shape = [min(PHANTOM_VOX, math.ceil(field_mm / mm)) for field_mm, mm in zip(PHANTOM_MM, spacing_mm, strict=True)]
    drawn = phantom(uid, shape, spacing_mm, seed=seed)
    return drawn.image, drawn.label

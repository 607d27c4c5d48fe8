"""Presets side by side: the same slices of one scan, healthy and as each preset makes them."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.preview.slices import AXIAL, CORONAL, Column, columns_figure, fullest, lesions_in_words, organ_box, organ_window, parts_areas

COLOURS = ("#ffb300", "#4fc3f7", "#81c784", "#f06292")  # of the presets' outlines
LARGEST = 2  # lesions of each preset that have a slice
HALF = 0.5  # of a lesion's greatest area: a slice that cuts as much of it shows it


def comparison(
    image_hu: Float[Tensor, "1 1 i j k"],
    label: Int[Tensor, "1 1 i j k"],
    synthesizers: Mapping[str, TumorSynthesizer],
    spacing_mm: Sequence[float],
    uid: int = 0,
    window_hu: tuple[float, float] | None = None,
) -> Figure:
    """Synthesise into one scan with several presets, and draw the same slices of each.

    Rows are axial slices, through the largest lesions of every preset, and a coronal one, each chosen to show lesions of as many presets
    as it can; a panel that shows none says so. The first column shows the healthy scan and the outlines of all lesions, so that the
    others, one a preset, show lesions with nothing drawn over them.

    Args:
        image_hu: Healthy CT, RAS.
        label: Its organ.
        synthesizers: What to synthesise with, by the names that stand above the columns.
        spacing_mm: Along i, j, k.
        uid: Which of the synthesizers' samples.
        window_hu: HU shown as black and as white; by default 200 HU around the organ's median.
    """
    uids = torch.tensor([uid], device=image_hu.device)
    outlines, columns = list[tuple[NDArray[np.bool_], str, float]](), list[Column]()
    for (name, synthesizer), colour in zip(synthesizers.items(), cycle(COLOURS), strict=False):
        out = synthesizer.render(image_hu, label, synthesizer.plan(image_hu, label, spacing_mm, uid=uids))
        outlines.append((_volume(out.label) == synthesizer.tumor_label, colour, 0.8))
        columns.append(Column(f"{name}: {lesions_in_words(out)}", _volume(out.image), colour=colour, lesions=outlines[-1][0]))
    organ = _volume(label) > 0
    window_hu = window_hu or organ_window(image_hu[label > 0])
    tumors = [tumor for tumor, *_ in outlines]
    rows = [*((AXIAL, k) for k in _axial(tumors, organ)), (CORONAL, _coronal(tumors, organ))]
    healthy = Column("healthy, and where lesions come", _volume(image_hu), outlines)
    return columns_figure([healthy, *columns], rows, organ_box(organ, spacing_mm), spacing_mm, window_hu, f"uid {uid}")


def _axial(tumors: Sequence[NDArray[np.bool_]], organ: NDArray[np.bool_]) -> list[int]:
    """Axial slices that show the largest lesions of every preset, in order; the organ's fullest, where there is no lesion."""
    presets, chosen = _presets_shown(tumors, AXIAL), list[int]()
    for area in (area for tumor in tumors for area in parts_areas(tumor, AXIAL)[:LARGEST]):
        if not (showing := _showing(area))[chosen].any():
            chosen.append(max(np.flatnonzero(showing).tolist(), key=lambda k: (presets[k], area[k])))
    return sorted(chosen) or [fullest(organ, AXIAL)]


def _coronal(tumors: Sequence[NDArray[np.bool_]], organ: NDArray[np.bool_]) -> int:
    """The coronal slice that shows lesions of most presets, and of these the fullest; the organ's, where there is no lesion."""
    if not any(tumor.any() for tumor in tumors):
        return fullest(organ, CORONAL)
    presets, area = _presets_shown(tumors, CORONAL), np.logical_or.reduce(tumors).sum(axis=(0, 2))
    return max(range(len(area)), key=lambda j: (presets[j], area[j]))


def _presets_shown(tumors: Sequence[NDArray[np.bool_]], axis: int) -> NDArray[np.int64]:
    """Of how many presets each slice across an axis shows a lesion."""
    shown = [np.any([_showing(area) for area in parts_areas(tumor, axis)], axis=0) for tumor in tumors if tumor.any()]
    presets: NDArray[np.int64] = np.sum(shown, axis=0, dtype=np.int64)
    return presets


def _showing(area: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which slices show a lesion: those that cut half as much of it as the one that cuts most, or more."""
    showing: NDArray[np.bool_] = area >= max(1.0, HALF * float(area.max()))
    return showing


def _volume(x: Tensor) -> NDArray[Any]:
    """The one scan of a batch."""
    return (x.float() if x.is_floating_point() else x)[0, 0].cpu().numpy()

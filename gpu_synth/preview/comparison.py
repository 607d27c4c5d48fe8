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

    Rows are axial slices, through the largest lesions of every preset, and a coronal one. The first column shows the healthy scan and
    the outlines of all lesions, so that the others, one a preset, show lesions with nothing drawn over them.

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
        columns.append(Column(f"{name}: {lesions_in_words(out)}", _volume(out.image), colour=colour))
    organ = _volume(label) > 0
    window_hu = window_hu or organ_window(image_hu[label > 0])
    tumors = [tumor for tumor, *_ in outlines]
    every = np.logical_or.reduce(tumors)
    shown = every if every.any() else organ
    rows = [*((AXIAL, k) for k in _axial(tumors, organ)), (CORONAL, fullest(shown, CORONAL))]
    healthy = Column("healthy, and where lesions come", _volume(image_hu), outlines)
    return columns_figure([healthy, *columns], rows, organ_box(organ, spacing_mm), spacing_mm, window_hu, f"uid {uid}")


def _axial(tumors: Sequence[NDArray[np.bool_]], organ: NDArray[np.bool_]) -> list[int]:
    """Axial slices that show the largest lesions of every preset, in order; the organ's fullest, where there is no lesion."""
    chosen: list[int] = []
    for area in (area for tumor in tumors for area in parts_areas(tumor, LARGEST)):
        if not any(area[k] >= HALF * area.max() for k in chosen):
            chosen.append(int(area.argmax()))
    return sorted(chosen) or [fullest(organ, AXIAL)]


def _volume(x: Tensor) -> NDArray[Any]:
    """The one scan of a batch."""
    return (x.float() if x.is_floating_point() else x)[0, 0].cpu().numpy()

"""Pictures: what was synthesised, and where. Slices as a radiologist sees them: patient's right on the left, anterior up."""

import math
from collections.abc import Sequence
from os import PathLike
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.files import whole_file
from gpu_synth.render import Render

ABDOMEN_HU = (-160.0, 240.0)
TUMOR_HU = (-21.0, 189.0)
WIDTH_HU = 200.0  # of a window around an organ
CORONAL, AXIAL = 1, 2
CROP_MARGIN_MM = 20.0
APART_MM = 8.0  # between the slices shown
DPI = 110
NO_LESION = "no lesion in this slice"
SMALL: dict[str, Any] = {"fontsize": 7, "bbox": {"facecolor": "black", "edgecolor": "none", "pad": 1.5}}  # writing that bone cannot hide
TITLE_WIDTH = 46  # letters over a column
ORGAN_COLOUR, TUMOR_COLOUR, PREDICTED_COLOUR = "#4fc3f7", "#ffb300", "#ef5350"


class Column(NamedTuple):
    """What a column of slices shows.

    Attributes:
        title: What stands above it.
        volume: HU.
        outlines: Masks, and colour and width of their contours.
        colour: Of the title.
        lesions: What is to be seen there; a slice that shows none of it says so.
    """

    title: str
    volume: NDArray[Any]
    outlines: Sequence[tuple[NDArray[np.bool_], str, float]] = ()
    colour: str = "white"
    lesions: NDArray[np.bool_] | None = None


def slices_figure(
    before_hu: Float[Tensor, "i j k"],
    after_hu: Float[Tensor, "i j k"],
    label: Int[Tensor, "i j k"],
    spacing_mm: Sequence[float],
    *,
    predicted: Int[Tensor, "i j k"] | None = None,
    slices: int = 3,
    coronal: bool = False,
    window_hu: tuple[float, float] = ABDOMEN_HU,
    tumor_label: int = 2,
    title: str = "",
) -> Figure:
    """Draw slices before, after, and after with contours; a row a slice, through the largest tumours.

    Args:
        before_hu: Healthy CT, RAS.
        after_hu: The same with tumours.
        label: Its labels: whatever is above 0 is organ.
        spacing_mm: Along i, j, k.
        predicted: What a network made of it; its tumours are drawn too.
        slices: Most axial rows.
        coronal: Add a row with a coronal slice through the largest tumour.
        window_hu: HU shown as black and as white; `TUMOR_HU` is what networks are trained in.
        tumor_label: Number of the tumours.
        title: What stands above all.
    """
    tumor, organ = (label == tumor_label).cpu().numpy(), (label > 0).cpu().numpy()
    shown = tumor if tumor.any() else organ
    rows = [(AXIAL, k) for k in _slices(shown, spacing_mm, slices)]
    if coronal:
        rows.append((CORONAL, fullest(shown, CORONAL)))
    outlines = [(organ, ORGAN_COLOUR, 0.6), (tumor, TUMOR_COLOUR, 1.2)]
    if predicted is not None:
        outlines.append(((predicted == tumor_label).cpu().numpy(), PREDICTED_COLOUR, 1.2))
    before, after = (volume.float().cpu().numpy() for volume in (before_hu, after_hu))
    columns = (
        Column("healthy", before),
        Column("with synthetic tumours", after),
        Column("tumours" if predicted is None else "tumours, and those found", after, outlines),
    )
    return columns_figure(columns, rows, organ_box(organ, spacing_mm), spacing_mm, window_hu, title)


def columns_figure(
    columns: Sequence[Column],
    rows: Sequence[tuple[int, int]],
    box: tuple[slice, ...],
    spacing_mm: Sequence[float],
    window_hu: tuple[float, float],
    title: str,
) -> Figure:
    """Draw the same slices of several volumes, side by side.

    Args:
        columns: What to draw.
        rows: Axis that each slice lies across, and where on it.
        box: Part of the volumes that is shown.
        spacing_mm: Along i, j, k.
        window_hu: HU shown as black and as white.
        title: What stands above all.
    """
    extents = [extent_of(box, spacing_mm, axis) for axis, _ in rows]
    heights = [3.2 * height / width for width, height in extents]
    figure = Figure(figsize=(3.2 * len(columns), sum(heights) + 0.5), dpi=DPI, layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights})
    for panels, (axis, at), extent in zip(axes, rows, extents, strict=True):
        for panel, column in zip(panels, columns, strict=True):
            show(panel, _plane(column.volume, box, axis, at), extent, window_hu)
            for mask, colour, width in column.outlines:
                contour(panel, _plane(mask, box, axis, at), extent, colour, width)
            if column.lesions is not None and column.lesions.any() and not _plane(column.lesions, box, axis, at).any():
                panel.text(0.98, 0.03, NO_LESION, transform=panel.transAxes, color=column.colour, ha="right", **SMALL)
        panels[0].text(0.02, 0.03, f"{'k' if axis == AXIAL else 'j'} = {at}", transform=panels[0].transAxes, color="white", **SMALL)
    for panel, column in zip(axes[0], columns, strict=True):
        panel.set_title("\n".join(wrap(column.title, TITLE_WIDTH)), color=column.colour, fontsize=9)
    scale_bar(axes[-1][0], extents[-1])
    figure.suptitle(title, color="white", fontsize=9)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # each drawing would move everything by a little
    return figure


def preview(
    image_hu: Float[Tensor, "1 1 i j k"],
    label: Int[Tensor, "1 1 i j k"],
    synthesizer: TumorSynthesizer,
    spacing_mm: Sequence[float],
    uid: int = 0,
    window_hu: tuple[float, float] | None = None,
) -> Figure:
    """Synthesise into one scan and draw it.

    Args:
        image_hu: Healthy CT.
        label: Its organ.
        synthesizer: What to synthesise with.
        spacing_mm: Along i, j, k.
        uid: Which of the synthesizer's samples.
        window_hu: HU shown as black and as white; by default 200 HU around the organ's median.
    """
    window_hu = window_hu or organ_window(image_hu[label == synthesizer.organ_label])
    plan = synthesizer.plan(image_hu, label, spacing_mm, uid=torch.tensor([uid], device=image_hu.device))
    out = synthesizer.render(image_hu, label, plan)
    title = f"uid {uid}: {lesions_in_words(out)}"
    before, after, labels = (x[0, 0].cpu() for x in (image_hu.float(), out.image.float(), out.label))
    return slices_figure(
        before, after, labels, spacing_mm, slices=2, coronal=True, window_hu=window_hu, tumor_label=synthesizer.tumor_label, title=title
    )


def organ_window(organ_hu: Float[Tensor, " n"]) -> tuple[float, float]:
    """A window that shows faint lesions in an organ, whatever its phase: 200 HU around its median."""
    finite = organ_hu[organ_hu.isfinite()]
    if not len(finite):
        return ABDOMEN_HU
    middle = round(float(finite.float().median()))
    return middle - WIDTH_HU / 2, middle + WIDTH_HU / 2


def lesions_in_words(out: Render) -> str:
    """How many lesions a render of one scan holds, and their equivalent diameters, the largest first. Reads the device."""
    voxels = out.instances.flatten().bincount()[1:].double()
    volume_mm3 = voxels[voxels > 0] * math.prod(out.plan.spacing_mm[0])
    diameters_mm = [f"{mm:.0f}" for mm in (6 / math.pi * volume_mm3).pow(1 / 3).sort(descending=True).values.tolist()]
    if len(diameters_mm) < 2:
        return f"1 lesion, equivalent diameter {diameters_mm[0]} mm" if diameters_mm else "no lesion"
    return f"{len(diameters_mm)} lesions, equivalent diameters {', '.join(diameters_mm)} mm"


def save_png(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a figure; the file is whole or absent."""
    with whole_file(path) as stream:
        figure.savefig(stream, format="png", facecolor=figure.get_facecolor())


def to_rgb(figure: Figure) -> UInt8[Tensor, "3 h w"]:
    """Draw a figure into a tensor, as TensorBoard takes it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def organ_box(organ: NDArray[np.bool_], spacing_mm: Sequence[float], margin_mm: float = CROP_MARGIN_MM) -> tuple[slice, ...]:
    """The organ's box with a margin; everything, where there is no organ."""
    parts = []
    for axis, n in enumerate(organ.shape):
        at = np.flatnonzero(organ.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(margin_mm / spacing_mm[axis])
        parts.append(slice(max(0, int(at[0]) - margin), min(n, int(at[-1]) + 1 + margin)) if len(at) else slice(0, n))
    return tuple(parts)


def parts_areas(mask: NDArray[np.bool_], axis: int) -> list[NDArray[np.int64]]:
    """For each connected part, the largest first: how many voxels each slice across an axis has of it."""
    parts = ndimage.label(mask, np.ones((3, 3, 3)))[0]
    boxes, sizes = ndimage.find_objects(parts), np.bincount(parts.ravel())[1:]
    areas = []
    for part in np.argsort(-sizes, kind="stable"):
        area, box = np.zeros(mask.shape[axis], np.int64), boxes[part]
        area[box[axis]] = (parts[box] == part + 1).sum(axis=tuple({0, 1, 2} - {axis}))
        areas.append(area)
    return areas


def _slices(mask: NDArray[np.bool_], spacing_mm: Sequence[float], most: int) -> list[int]:
    """Axial slices, well apart, in order: each the fullest of the largest connected parts not yet cut; then the fullest."""
    area = mask.sum(axis=(0, 1))
    apart, chosen = max(1, round(APART_MM / spacing_mm[AXIAL])), list[int]()
    for k in [*(int(part.argmax()) for part in parts_areas(mask, AXIAL)[:most]), *np.argsort(-area, kind="stable").tolist()]:
        if len(chosen) < most and all(abs(k - other) >= apart for other in chosen) and (area[k] > 0 or not chosen):
            chosen.append(k)
    return sorted(chosen)


def fullest(mask: NDArray[np.bool_], axis: int) -> int:
    """The slice across an axis that shows most."""
    return int(mask.sum(axis=tuple({0, 1, 2} - {axis})).argmax())


def extent_of(box: tuple[slice, ...], spacing_mm: Sequence[float], axis: int) -> tuple[float, float]:
    """Width and height in millimetres of a plane across an axis."""
    width, height = ((part.stop - part.start) * spacing for n, (part, spacing) in enumerate(zip(box, spacing_mm, strict=True)) if n != axis)
    return width, height


def _plane(volume: NDArray[Any], box: tuple[slice, ...], axis: int, at: int) -> NDArray[Any]:
    """A plane across an axis, within the box."""
    return volume[tuple(at if n == axis else part for n, part in enumerate(box))]


def show(panel: Any, plane: NDArray[Any], extent_mm: tuple[float, float], window_hu: tuple[float, float]) -> None:
    """A plane in millimetres, the patient's right on the left, anterior or head up."""
    (width, height), (low, high) = extent_mm, window_hu
    panel.imshow(
        plane.T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=(0, width, 0, height), interpolation="bilinear", aspect="equal"
    )
    panel.set_xlim(width, 0)
    panel.axis("off")


def contour(panel: Any, mask: NDArray[np.bool_], extent_mm: tuple[float, float], colour: str, width: float) -> None:
    """The edge of a mask, where it has one in this plane."""
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        across, up = ((np.arange(n) + 0.5) * extent / n for n, extent in zip(mask.shape, extent_mm, strict=True))
        panel.contour(across, up, mask.T.astype(float), levels=[0.5], colors=[colour], linewidths=width)


def scale_bar(panel: Any, extent_mm: tuple[float, float]) -> None:
    """50 mm, or 10 where that is too long."""
    length = 50.0 if extent_mm[0] > 120 else 10.0
    right, low = 0.05 * extent_mm[0], 0.06 * extent_mm[1]
    for colour, width in (("black", 5), ("white", 2)):
        panel.plot([right, right + length], [low, low], color=colour, linewidth=width)
    panel.text(right + length / 2, 0.09 * extent_mm[1], f"{length:.0f} mm", color="white", ha="center", **SMALL)

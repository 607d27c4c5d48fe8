"""Pictures: what was synthesised, and where. Slices as a radiologist sees them: patient's right on the left, anterior up."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.conform import prepare_ct, prepare_label
from gpu_synth.files import whole_file
from gpu_synth.sources import Source

ABDOMEN_HU = (-160.0, 240.0)
TUMOR_HU = (-21.0, 189.0)
CORONAL, AXIAL = 1, 2
CROP_MARGIN_MM = 20.0
ORGAN_COLOUR, TUMOR_COLOUR, PREDICTED_COLOUR = "#4fc3f7", "#ffb300", "#ef5350"


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
    found = None if predicted is None else (predicted == tumor_label).cpu().numpy()
    box = _crop(organ, spacing_mm)
    rows = [(AXIAL, k) for k in _slices(tumor if tumor.any() else organ, spacing_mm, slices)]
    if coronal:
        rows.append((CORONAL, _coronal(tumor if tumor.any() else organ)))
    names = ("healthy", "with synthetic tumours", "tumours" if found is None else "tumours, and those found")
    extents = [_extent_mm(box, spacing_mm, axis) for axis, _ in rows]
    heights = [3.2 * height / width for width, height in extents]
    figure = Figure(figsize=(9.6, sum(heights) + 0.5), dpi=110, layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, (axis, at), extent in zip(axes, rows, extents, strict=True):
        for panel, volume in zip(row, (before_hu, after_hu, after_hu), strict=True):
            _show(panel, _plane(volume.float().cpu().numpy(), box, axis, at), extent, window_hu)
        for mask, colour, width in ((organ, ORGAN_COLOUR, 0.6), (tumor, TUMOR_COLOUR, 1.2), (found, PREDICTED_COLOUR, 1.2)):
            if mask is not None:
                _contour(row[2], _plane(mask, box, axis, at), extent, colour, width)
        row[0].text(0.02, 0.03, f"{'k' if axis == AXIAL else 'j'} = {at}", transform=row[0].transAxes, color="white", fontsize=7)
    for panel, name in zip(axes[0], names, strict=True):
        panel.set_title(name, color="white", fontsize=9)
    _scale_bar(axes[-1][0], extents[-1])
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
    window_hu: tuple[float, float] = ABDOMEN_HU,
) -> Figure:
    """Synthesise into one scan and draw it.

    Args:
        image_hu: Healthy CT.
        label: Its organ.
        synthesizer: What to synthesise with.
        spacing_mm: Along i, j, k.
        uid: Which of the synthesizer's samples.
        window_hu: HU shown as black and as white.
    """
    plan = synthesizer.plan(image_hu, label, spacing_mm, uid=torch.tensor([uid], device=image_hu.device))
    out = synthesizer.render(image_hu, label, plan)
    lesions = [f"{2 * record['equivalent_radius_mm']:.0f}" for record in out.records()]
    title = f"uid {uid}: " + (f"{len(lesions)} lesions, equivalent diameters {', '.join(lesions)} mm" if lesions else "no lesion")
    before, after, labels = (x[0, 0].cpu() for x in (image_hu.float(), out.image.float(), out.label))
    return slices_figure(
        before, after, labels, spacing_mm, slices=2, coronal=True, window_hu=window_hu, tumor_label=synthesizer.tumor_label, title=title
    )


def preview_files(
    *,
    image: str,
    label: str,
    out: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    organ_labels: tuple[int, ...] = (1,),
    uid: int = 0,
    seed: int = 0,
    preset: str = "liver-hu2022",
    overrides: dict[str, Any] | None = None,
    window_hu: tuple[float, float] = ABDOMEN_HU,
) -> None:
    """Draw one scan before and after synthesis.

    Args:
        image: CT, NIfTI.
        label: Mask of its organ, NIfTI.
        out: PNG file to write; its folder is made.
        spacing_mm: Spacing to work on, along right, anterior, superior.
        organ_labels: Values of the mask that are the organ.
        uid: Which sample; another number, other tumours.
        seed: Key of all randomness.
        preset: What the tumours are drawn from.
        overrides: Fields of the preset and their new values.
        window_hu: HU shown as black and as white.

    Raises:
        ValueError: A file cannot be used, or an argument is out of range.
    """
    synthesizer = TumorSynthesizer(preset, prob=1.0, seed=seed, scope="volume", **(overrides or {}))
    if Path(out).is_dir():
        raise ValueError(f"out must be a file to write, got the folder {out}; name the file: {Path(out) / 'preview.png'}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    source = Source(Path(image).name, Path(image), Path(label))
    scan, _ = prepare_ct(source.image, spacing_mm)
    mask, _ = prepare_label(source, scan, organ_labels, ())
    image_hu, labels = (torch.from_numpy(np.ascontiguousarray(x))[None, None] for x in (scan.data.astype(np.float32), mask.data))
    save_png(preview(image_hu, labels, synthesizer, spacing_mm, uid, window_hu), out)
    print(f"wrote {out}")


def save_png(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a figure; the file is whole or absent."""
    with whole_file(path) as stream:
        figure.savefig(stream, format="png", facecolor=figure.get_facecolor())


def to_rgb(figure: Figure) -> UInt8[Tensor, "3 h w"]:
    """Draw a figure into a tensor, as TensorBoard takes it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def _crop(organ: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """The organ's box with a margin; everything, where there is no organ."""
    parts = []
    for axis, n in enumerate(organ.shape):
        at = np.flatnonzero(organ.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(CROP_MARGIN_MM / spacing_mm[axis])
        parts.append(slice(max(0, int(at[0]) - margin), min(n, int(at[-1]) + 1 + margin)) if len(at) else slice(0, n))
    return tuple(parts)


def _slices(mask: NDArray[np.bool_], spacing_mm: Sequence[float], most: int) -> list[int]:
    """Axial slices, at least 8 mm apart, in order: each the fullest of the largest connected parts not yet cut; then the fullest."""
    parts = ndimage.label(mask, np.ones((3, 3, 3)))[0]
    sizes = np.bincount(parts.ravel())[1:]
    areas = [(parts == part + 1).sum(axis=(0, 1)) for part in np.argsort(-sizes, kind="stable")[:most]]
    area = mask.sum(axis=(0, 1))
    apart, chosen = max(1, round(8.0 / spacing_mm[2])), list[int]()
    for k in [*(int(part.argmax()) for part in areas), *np.argsort(-area, kind="stable").tolist()]:
        if len(chosen) < most and all(abs(k - other) >= apart for other in chosen) and (area[k] > 0 or not chosen):
            chosen.append(k)
    return sorted(chosen)


def _coronal(mask: NDArray[np.bool_]) -> int:
    """The coronal slice that shows most."""
    return int(mask.sum(axis=(0, 2)).argmax())


def _extent_mm(box: tuple[slice, ...], spacing_mm: Sequence[float], axis: int) -> tuple[float, float]:
    """Width and height of a plane across an axis."""
    width, height = ((part.stop - part.start) * spacing for n, (part, spacing) in enumerate(zip(box, spacing_mm, strict=True)) if n != axis)
    return width, height


def _plane(volume: NDArray[Any], box: tuple[slice, ...], axis: int, at: int) -> NDArray[Any]:
    """A plane across an axis, within the box."""
    return volume[tuple(at if n == axis else part for n, part in enumerate(box))]


def _show(panel: Any, plane: NDArray[Any], extent_mm: tuple[float, float], window_hu: tuple[float, float]) -> None:
    """A plane in millimetres, the patient's right on the left, anterior or head up."""
    (width, height), (low, high) = extent_mm, window_hu
    panel.imshow(
        plane.T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=(0, width, 0, height), interpolation="bilinear", aspect="equal"
    )
    panel.set_xlim(width, 0)
    panel.axis("off")


def _contour(panel: Any, mask: NDArray[np.bool_], extent_mm: tuple[float, float], colour: str, width: float) -> None:
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        across, up = ((np.arange(n) + 0.5) * extent / n for n, extent in zip(mask.shape, extent_mm, strict=True))
        panel.contour(across, up, mask.T.astype(float), levels=[0.5], colors=[colour], linewidths=width)


def _scale_bar(panel: Any, extent_mm: tuple[float, float]) -> None:
    """50 mm, or 10 where that is too long."""
    length = 50.0 if extent_mm[0] > 120 else 10.0
    right, low = 0.05 * extent_mm[0], 0.06 * extent_mm[1]
    panel.plot([right, right + length], [low, low], color="white", linewidth=2)
    panel.text(right + length / 2, 0.08 * extent_mm[1], f"{length:.0f} mm", color="white", fontsize=7, ha="center")

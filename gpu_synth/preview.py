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
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.conform import prepare_ct, prepare_label
from gpu_synth.files import whole_file
from gpu_synth.sources import Source

ABDOMEN_HU = (-160.0, 240.0)
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
    window_hu: tuple[float, float] = ABDOMEN_HU,
    tumor_label: int = 2,
    title: str = "",
) -> Figure:
    """Draw axial slices before, after, and after with contours; a row a slice, those with the most tumour first.

    Args:
        before_hu: Healthy CT, RAS.
        after_hu: The same with tumours.
        label: Its labels: whatever is above 0 is organ.
        spacing_mm: Along i, j, k.
        predicted: What a network made of it; its tumours are drawn too.
        slices: Most rows.
        window_hu: HU shown as black and as white.
        tumor_label: Number of the tumours.
        title: What stands above all.
    """
    tumor, organ = (label == tumor_label).numpy(), (label > 0).numpy()
    box = _crop(organ if organ.any() else np.ones_like(organ), spacing_mm)
    chosen = _slices(tumor, organ, spacing_mm, slices)
    columns = ("healthy", "with synthetic tumours", "tumours" if predicted is None else "tumours, and those found")
    shown_mm = [(part.stop - part.start) * spacing for part, spacing in zip(box, spacing_mm, strict=False)]
    height = 3.2 * shown_mm[1] / shown_mm[0]
    figure = Figure(figsize=(9.6, height * len(chosen) + 0.5), dpi=110, layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, k in zip(axes, chosen, strict=True):
        for panel, volume, name in zip(row, (before_hu, after_hu, after_hu), columns, strict=True):
            _show(panel, volume.numpy()[(*box, k)], spacing_mm, window_hu)
            if k == chosen[0]:
                panel.set_title(name, color="white", fontsize=9)
        _contour(row[2], organ[(*box, k)], spacing_mm, ORGAN_COLOUR, 0.6)
        _contour(row[2], tumor[(*box, k)], spacing_mm, TUMOR_COLOUR, 1.2)
        if predicted is not None:
            _contour(row[2], (predicted == tumor_label).numpy()[(*box, k)], spacing_mm, PREDICTED_COLOUR, 1.2)
        row[0].text(0.02, 0.03, f"k = {k}", transform=row[0].transAxes, color="white", fontsize=7)
    _scale_bar(axes[-1][0], shown_mm)
    figure.suptitle(title, color="white", fontsize=9)
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
    lesions = [f"{2 * (3 * record['volume_mm3'] / (4 * np.pi)) ** (1 / 3):.0f}" for record in out.records()]
    title = f"uid {uid}: " + (f"{len(lesions)} lesions, equivalent diameters {', '.join(lesions)} mm" if lesions else "no lesion")
    before, after, labels = (x[0, 0].cpu() for x in (image_hu.float(), out.image.float(), out.label))
    return slices_figure(before, after, labels, spacing_mm, title=title, window_hu=window_hu, tumor_label=synthesizer.tumor_label)


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
        out: PNG file to write.
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


def _crop(organ: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[slice, slice]:
    """The organ's axial box with a margin."""
    parts = []
    for axis, other in ((0, (1, 2)), (1, (0, 2))):
        at, margin = np.flatnonzero(organ.any(axis=other)), round(CROP_MARGIN_MM / spacing_mm[axis])
        parts.append(slice(max(0, int(at[0]) - margin), min(organ.shape[axis], int(at[-1]) + 1 + margin)))
    return parts[0], parts[1]


def _slices(tumor: NDArray[np.bool_], organ: NDArray[np.bool_], spacing_mm: Sequence[float], most: int) -> list[int]:
    """Slices with the most tumour (organ, where there is none), at least 8 mm apart, in order."""
    area = (tumor if tumor.any() else organ).sum(axis=(0, 1))
    apart, chosen = max(1, round(8.0 / spacing_mm[2])), list[int]()
    for k in np.argsort(-area, kind="stable").tolist():
        if len(chosen) < most and all(abs(k - other) >= apart for other in chosen) and (area[k] > 0 or not chosen):
            chosen.append(k)
    return sorted(chosen)


def _show(panel: Any, plane: NDArray[Any], spacing_mm: Sequence[float], window_hu: tuple[float, float]) -> None:
    """An axial plane in millimetres, anterior up and the patient's right on the left."""
    width, height = (n * spacing for n, spacing in zip(plane.shape, spacing_mm, strict=False))
    low, high = window_hu
    panel.imshow(
        plane.T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=(0, width, 0, height), interpolation="bilinear", aspect="equal"
    )
    panel.set_xlim(width, 0)
    panel.axis("off")


def _contour(panel: Any, mask: NDArray[np.bool_], spacing_mm: Sequence[float], colour: str, width: float) -> None:
    if mask.any() and not mask.all():
        i, j = ((np.arange(n) + 0.5) * spacing for n, spacing in zip(mask.shape, spacing_mm, strict=False))
        panel.contour(i, j, mask.T.astype(float), levels=[0.5], colors=[colour], linewidths=width)


def _scale_bar(panel: Any, shown_mm: Sequence[float]) -> None:
    """50 mm, or 10 where that is too long."""
    length = 50.0 if shown_mm[0] > 120 else 10.0
    right = 0.05 * shown_mm[0]
    panel.plot([right, right + length], [0.06 * shown_mm[1]] * 2, color="white", linewidth=2)
    panel.text(right + length / 2, 0.08 * shown_mm[1], f"{length:.0f} mm", color="white", fontsize=7, ha="center")

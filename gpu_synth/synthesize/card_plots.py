"""Plots of the data card: how large lesions are, how they differ from their organ, of what kinds, and how many a volume has."""

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gpu_synth.evaluate.lesions import SIZE_EDGES_MM

COLOURS = ("#1565c0", "#ef6c00", "#2e7d32", "#ad1457", "#6a1b9a", "#00838f", "#795548", "#546e7a")
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
RADII_MM = (1, 2, 3, 5, 10, 20, 40, 80)
DPI = 120


class Measured(NamedTuple):
    """What is plotted of a lesion.

    Attributes:
        radius_mm: Of the ball of as much volume.
        contrast_hu: Mean HU less what the healthy organ had there.
        contrast_to_noise: Its size over the scan's noise.
        kind: What it is.
    """

    radius_mm: float
    contrast_hu: float
    contrast_to_noise: float
    kind: str


def plots(lesions: Sequence[Measured], volumes: Sequence[tuple[int, float]]) -> dict[str, bytes]:
    """Draw all plots; the same lesions give the same bytes.

    Args:
        lesions: Every lesion, at least one.
        volumes: Of each volume, how many lesions it has and the percent of the organ that they are.

    Returns:
        PNG by name.
    """
    kinds = [kind for kind, _ in sorted(Counter(lesion.kind for lesion in lesions).items(), key=lambda item: (-item[1], item[0]))]
    with rc_context(STYLE):
        figures = {
            "sizes": _sizes(lesions),
            "contrasts": _contrasts(lesions, kinds),
            "kinds": _kinds(lesions, kinds),
            "volumes": _volumes(volumes),
        }
        return {name: _png(figure) for name, figure in figures.items()}


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def _sizes(lesions: Sequence[Measured]) -> Figure:
    figure, panel = _figure(6.0, 3.0)
    radii = np.array([lesion.radius_mm for lesion in lesions])
    low, high = min(1.0, radii.min()), max(50.0, radii.max())
    panel.hist(radii, np.geomspace(low, high, 31), color=COLOURS[0], alpha=0.85)
    for edge_mm in SIZE_EDGES_MM:
        panel.axvline(edge_mm, color="#999999", linewidth=0.8, linestyle=":")
    _radius_axis(panel, low, high)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set(ylabel="lesions", title=f"Sizes of {len(lesions)} lesions; dotted: the bins of gpu-synth evaluate")
    return figure


def _contrasts(lesions: Sequence[Measured], kinds: Sequence[str]) -> Figure:
    figure, panel = _figure(7.4, 3.6)
    for n, kind in enumerate(kinds):
        of_kind = [lesion for lesion in lesions if lesion.kind == kind]
        across, up = [lesion.radius_mm for lesion in of_kind], [lesion.contrast_hu for lesion in of_kind]
        panel.scatter(across, up, s=14, color=COLOURS[n % len(COLOURS)], alpha=0.7, linewidths=0, label=kind)
    panel.axhline(0, color="#333333", linewidth=0.8)
    radii = [lesion.radius_mm for lesion in lesions]
    _radius_axis(panel, min(1.0, *radii), max(50.0, *radii))
    panel.set(ylabel="HU of the lesion less those of the organ", title="Contrast to the organ, mean over each lesion")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _kinds(lesions: Sequence[Measured], kinds: Sequence[str]) -> Figure:
    figure, panel = _figure(6.0, 1.1 + 0.28 * len(kinds))
    counts = [sum(lesion.kind == kind for lesion in lesions) for kind in kinds]
    bars = panel.barh(range(len(kinds)), counts, color=COLOURS[0], alpha=0.85)
    panel.bar_label(bars, [f"{count} ({100 * count / len(lesions):.0f} %)" for count in counts], padding=3)
    panel.set_yticks(range(len(kinds)), kinds)
    panel.set(ylim=(len(kinds) - 0.4, -0.6), xlim=(0, 1.25 * max(counts)), xlabel="lesions", title="Kinds")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _volumes(volumes: Sequence[tuple[int, float]]) -> Figure:
    figure, (left, right) = _figure(7.4, 2.8, 2)
    counts = Counter(count for count, _ in volumes)
    left.bar(list(counts), list(counts.values()), color=COLOURS[0], alpha=0.85)
    left.set(xlabel="lesions in a volume", ylabel="volumes", title="How many")
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    right.hist([share for _, share in volumes], 20, color=COLOURS[0], alpha=0.85)
    right.set(xlim=(0, None), xlabel="tumour, % of the organ", ylabel="volumes", title="How much of the organ")
    return figure


def _radius_axis(panel: Any, low: float, high: float) -> None:
    panel.set(xscale="log", xlim=(low, high), xlabel="equivalent radius, mm")
    panel.xaxis.set_major_locator(FixedLocator(RADII_MM))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda mm, _: f"{mm:g}"))
    panel.xaxis.set_minor_locator(NullLocator())


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels)

"""Plots of the report."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpu_synth.evaluate.case import Case
from gpu_synth.evaluate.lesions import SIZES
from gpu_synth.evaluate.summary import DSC_ORGAN, DSC_TUMOR, NSD_ORGAN, NSD_TUMOR, Metric, Summary

COLOURS = ("#1565c0", "#ef6c00")  # of the models
MOST_NAMED = 60  # scans; more have no room for their names
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "gpu-synth"}


def to_svg(figure: Figure) -> bytes:
    """Draw a figure; the same one gives the same bytes."""
    stream = BytesIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def by_size(summaries: Sequence[Summary], names: Sequence[str]) -> Figure:
    """Draw the share of lesions found, for each size, with its interval."""
    figure, panel = _figure(7.0, 3.2)
    width = 0.8 / len(summaries)
    for n, (summary, name, colour) in enumerate(zip(summaries, names, COLOURS, strict=False)):
        for at, estimate in enumerate(summary.found_by_size):
            if not estimate.n:
                continue
            across, share = at + (n - (len(summaries) - 1) / 2) * width, 100 * estimate.value
            panel.bar(across, share, 0.92 * width, color=colour, alpha=0.75, label=name if at == _first(summary) else None)
            ends = [[share - 100 * estimate.low], [100 * estimate.high - share]]
            panel.errorbar(across, share, yerr=np.maximum(ends, 0), color="#333333", capsize=3, linewidth=1)
            found = round(estimate.value * estimate.n)
            panel.text(across, 3, f"{found}/{estimate.n}", ha="center", fontsize=8, bbox={"color": "white", "alpha": 0.8, "pad": 1})
    counts = [summaries[0].found_by_size[at].n for at in range(len(SIZES))]
    panel.set_xticks(range(len(SIZES)), [f"{size} mm" + ("" if n else "\n(none)") for size, n in zip(SIZES, counts, strict=True)])
    panel.set(xlim=(-0.6, len(SIZES) - 0.4), ylim=(0, 105), xlabel="equivalent radius of the lesion", ylabel="lesions found, %")
    _legend(figure, panel, names)
    return figure


def froc(summaries: Sequence[Summary], names: Sequence[str]) -> Figure:
    """Draw sensitivity against false positives a scan; a dot is where the prediction itself stands."""
    figure, panel = _figure(5.2, 3.4)
    most = 0.0
    for n, (summary, name, colour) in enumerate(zip(summaries, names, COLOURS, strict=False)):
        rates, sensitivity = summary.froc["false_positives_per_scan"], [100 * share for share in summary.froc["sensitivity"]]
        if rates:
            most = max(most, *rates)
            panel.plot(rates, sensitivity, color=colour, linewidth=1.6)
            filled = colour if n == 0 else "none"  # so that one shows through the other
            panel.plot(rates[0], sensitivity[0], "o", color=colour, markerfacecolor=filled, markersize=6 + 3 * n, label=name, clip_on=False)
    panel.set(xlim=(0, max(1.05 * most, 0.5)), ylim=(0, 105), xlabel="false positives per scan", ylabel="lesions found, %")
    panel.grid(color="#dddddd", linewidth=0.6)
    _legend(figure, panel, names)
    return figure


def scan_by_scan(cases: Sequence[Case], names: Sequence[str]) -> Figure | None:
    """Draw each scan's DSC and NSD, of tumours and of the organ, the worst tumour first; None where there is nothing to draw."""
    panels = [
        (what, metrics)
        for what, metrics in (("tumour", (DSC_TUMOR, NSD_TUMOR)), ("organ", (DSC_ORGAN, NSD_ORGAN)))
        if any(metrics[0].counts(case) for case in cases)
    ]
    if not panels:
        return None
    order = sorted(cases, key=lambda case: (not DSC_TUMOR.counts(case), DSC_TUMOR.value(case.models[0]), case.name))
    named = len(order) <= MOST_NAMED
    figure, axes = _figure(8.0, 1.3 + (max(0.19 * len(order), 0.8) if named else 6.0), len(panels))
    for panel, (what, metrics) in zip(np.atleast_1d(axes), panels, strict=True):
        for metric, marker in zip(metrics, "o|", strict=True):
            _dots(panel, order, names, metric, marker)
        panel.set(xlim=(-3, 103), ylim=(len(order) - 0.5, -0.5), xlabel="%", title=what)
        panel.grid(color="#dddddd", linewidth=0.6)
        if not named and panel is np.atleast_1d(axes)[0]:
            panel.set_ylabel(f"{len(order)} scans, the worst tumour first")
        panel.set_yticks(range(len(order)) if named else [], [_short(case.name) for case in order] if named else [])
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _dots(panel: Any, order: Sequence[Case], names: Sequence[str], metric: Metric, marker: str) -> None:
    """A metric of all scans and models; two models' are joined by a line."""
    at = [n for n, case in enumerate(order) if metric.counts(case)]
    scores = [[100 * metric.value(order[n].models[model]) for n in at] for model in range(len(names))]
    what = "DSC" if marker == "o" else "NSD"
    if len(scores) == 2 and marker == "o":
        panel.hlines(at, scores[0], scores[1], color="#bbbbbb", linewidth=1)
    for values, name, colour in zip(scores, names, COLOURS, strict=False):
        label = f"{what}, {name}" if len(names) > 1 else what
        panel.plot(values, at, marker, color=colour, markersize=5 if marker == "o" else 8, linestyle="", label=label, clip_on=False)


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, Any]:
    """A figure and its panels, in the report's style."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(1, panels, sharey=True)


def _legend(figure: Figure, panel: Any, names: Sequence[str]) -> None:
    """Name the models, where there are several, beside the panel."""
    handles, labels = panel.get_legend_handles_labels()
    if len(names) > 1 and handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False)


def _first(summary: Summary) -> int:
    """The first size that holds a lesion: its bar bears the name in the legend."""
    return next(at for at, estimate in enumerate(summary.found_by_size) if estimate.n)


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 9]}…{name[-8:]}"

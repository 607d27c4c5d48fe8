"""One HTML file that says how good the segmentations are: the figures first, then what they rest on. It holds all that it shows."""

import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from matplotlib.figure import Figure

from gpu_synth.evaluate import plots
from gpu_synth.evaluate.case import Case
from gpu_synth.evaluate.intervals import Estimate
from gpu_synth.evaluate.lesions import FROC_RATES, SIZES
from gpu_synth.evaluate.methods import methods
from gpu_synth.evaluate.pairing import PROBABILITIES
from gpu_synth.evaluate.summary import Evaluation, Model, Summary, compare, headline
from gpu_synth.preview.slices import ORGAN_COLOUR, PREDICTED_COLOUR, TUMOR_COLOUR

MOST_SHOWN = 30  # rows of the table of all scans that lie open
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1060px; margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .8em 0; } th, td { padding: .28em .9em; text-align: right; border-bottom: 1px solid #e5e5e5; }
th { font-weight: 600; background: #f6f6f6; } th:first-child, td:first-child, td.text { text-align: left; }
table.headline { font-size: 1.1em; } table.headline td b { font-size: 1.15em; } .small, .interval { color: #666; font-size: .87em; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; } td.text { white-space: normal; overflow-wrap: anywhere; }
.red { color: #c62828; font-weight: 600; }
.bad { background: #fdecea; border-left: 4px solid #c62828; padding: .5em 1em; margin: .8em 0; }
.note { background: #fff8e1; border-left: 4px solid #f9a825; padding: .5em 1em; margin: .8em 0; }
code { white-space: nowrap; } img { max-width: 100%; } figure { margin: 1em 0; } summary { cursor: pointer; } .scroll { overflow-x: auto; }
"""


class Picture(NamedTuple):
    """A scan's picture, PNG, and what is to be said of it."""

    case: str
    png: bytes
    caption: str


def report(found: Evaluation, pictures: Sequence[Picture]) -> str:
    """Write the page.

    Args:
        found: All figures.
        pictures: Of the worst scans.
    """
    names = found.names
    parts = [
        "<h1>How good the segmentations are</h1>",
        _first_line(found),
        _headline(found),
        *_warnings(found),
        *_apart(found.summaries, found.models),
        "<h2>Lesions found, by size</h2>",
        _sizes(found.summaries, names),
        _image(plots.by_size(found.summaries, names)),
        "<h2>Lesions found against false positives (FROC)</h2>",
        _image(plots.froc(found.summaries, names)),
        _froc_words(found.summaries, found.models),
        "<h2>Scan by scan</h2>",
        _image(plots.scan_by_scan(found.cases, names)),
        "<h2>The worst scans</h2>",
        *_pictures(pictures, names),
        "<h2>All scans</h2>",
        _cases(found.cases, names),
        "<h2>How it was measured</h2>",
        *methods(found.settings, len(names) > 1),
    ]
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>gpu-synth evaluate</title>"
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _first_line(found: Evaluation) -> str:
    """What was scored, and whether that is all."""
    missing = sum(len(found.missing(n)) for n in range(len(found.models)))
    lacking = [f"{len(found.refused)} refused"] if found.refused else []
    lacking += [f"{_count(missing, 'prediction')} missing"] if missing else []
    red = f" <span class=red>{', '.join(lacking)}: see below.</span>" if lacking else ""
    models = (f"<b>{escape(model.name)}</b>{'' if model.where == model.name else f': {escape(model.where)}'}" for model in found.models)
    return f"<p class=small>{_count(len(found.cases), 'scan')} scored against {escape(found.references)}. {'; '.join(models)}.{red}</p>"


def _warnings(found: Evaluation) -> Iterable[str]:
    """What must be known before a figure is believed."""
    if found.refused:
        listed = "".join(f"<br><b>{escape(name)}</b>: {escape(why)}" for name, why in found.refused)
        yield f"<div class=bad>{_count(len(found.refused), 'scan')} could not be scored and counts in no figure:{listed}</div>"
    for n, name in enumerate(found.names):
        if missing := found.missing(n):
            yield (
                f"<div class=bad><b>{escape(name)}</b> has no prediction for {_count(len(missing), 'scan')}, "
                f"which counts as an empty one: {escape(', '.join(missing))}</div>"
            )


def _headline(found: Evaluation) -> str:
    """The figures, and how two models differ."""
    names = [escape(name) for name in found.names]
    pairs = compare(found.cases) if len(names) > 1 else {}
    head = [*names, "over", *([f"{names[0]} − {names[1]}", "p"] if pairs else [])]
    body = []
    for row in headline(found.summaries):
        over = _count(row.estimates[0].n, "lesion" if row.key == "lesions_found" else "scan")
        cells = [*(_estimate(estimate, row.percent) for estimate in row.estimates), f"<span class=small>{over}</span>"]
        if pairs:
            cells += [_estimate(pairs[row.key].mean, row.percent, signed=True), _p_value(pairs[row.key].p_value)]
        body.append([row.title, *cells])
    return _table(["mean, 95 % interval", *head], body, "headline")


def _apart(summaries: Sequence[Summary], models: Sequence[Model]) -> Iterable[str]:
    """Scans that stand apart from the means, and predictions that belong to none."""
    for what, estimates in (
        ("tumour", [summary.tumor_empty for summary in summaries]),
        ("organ", [summary.organ_empty for summary in summaries]),
    ):
        if n := estimates[0].n:
            shares = "; ".join(
                f"<b>{escape(model.name)}</b> predicts none in {round(estimate.value * n)} of them"
                for model, estimate in zip(models, estimates, strict=True)
            )
            yield (
                f"<div class=note>{_count(n, 'scan')} without {what} in the reference, apart from the means of {what} above "
                f"(DSC is 1 where none is predicted, else 0): {shares}.</div>"
            )
    for model in models:
        if model.extra:
            yield (
                f"<div class=note>{_count(len(model.extra), 'prediction')} of <b>{escape(model.name)}</b> without a reference, not scored: "
                f"<span class=small>{escape(', '.join(model.extra))}</span></div>"
            )


def _sizes(summaries: Sequence[Summary], names: Sequence[str]) -> str:
    """Lesions found, by equivalent radius."""
    rows = []
    for at, size in enumerate(SIZES):
        cells = []
        for estimate in (summary.found_by_size[at] for summary in summaries):
            cells += [f"{round(estimate.value * estimate.n)} of {estimate.n}" if estimate.n else "0 of 0", _estimate(estimate, True)]
        rows.append([f"{size} mm", *cells])
    head = [part for name in names for part in (f"{escape(name)}: found", "share")]
    return _table(["equivalent radius", *head], rows)


def _froc_words(summaries: Sequence[Summary], models: Sequence[Model]) -> str:
    """What the FROC says, and where it is none."""
    if not summaries[0].froc["sensitivity"]:
        return "<p class=small>No scan holds a lesion: there is no FROC.</p>"
    rates, said = ", ".join(f"{rate:g}" for rate in FROC_RATES), []
    for n, (summary, model) in enumerate(zip(summaries, models, strict=True)):
        score = f"mean sensitivity at {rates} false positives per scan {100 * summary.froc['score']:.1f} %"
        place = f"a folder <code>{PROBABILITIES}</code> within its predictions" + ("" if n else ", or <code>--probabilities</code>")
        point = f"no tumour probabilities were given ({place}), so that its FROC is a single point"
        said.append(f"<b>{escape(model.name)}</b>: {score if model.has_probabilities else point}.")
    return "<p class=small>" + " ".join(said) + " The dot is the prediction as it is: its operating point, where a curve ends.</p>"


def _pictures(pictures: Sequence[Picture], names: Sequence[str]) -> Iterable[str]:
    """Pictures of the worst scans."""
    if not pictures:
        yield "<p>There is none to show.</p>"
        return
    key = ((ORGAN_COLOUR, "organ"), (TUMOR_COLOUR, "tumour, reference"), (PREDICTED_COLOUR, "tumour, prediction"))
    colours = " ".join(f'<span style="color:{colour}">■</span> {what}' for colour, what in key)
    yield (
        f"<p class=small>By tumour DSC of <b>{escape(names[0])}</b> (organ DSC where no scan holds a tumour), the worst first; "
        f"axial slices where it misses most and where it invents most, and a coronal one. {colours}</p>"
    )
    for each in pictures:
        picture = f'<img alt="{escape(each.case)}" src="data:image/png;base64,{b64encode(each.png).decode()}">'
        yield f"<figure><figcaption><b>{escape(each.case)}</b>: {escape(each.caption)}</figcaption>{picture}</figure>"


def _cases(cases: Sequence[Case], names: Sequence[str]) -> str:
    """Every scan, by every model."""
    rows = []
    for case in cases:
        for scores, name in zip(case.models, names, strict=True):
            shares = [
                f"{100 * value:.1f}" + ("" if volume else " (empty)") if scored else "–"
                for scored, volume, each in ((True, case.tumor_ml, scores.tumor), (case.organ_scored, case.organ_ml, scores.organ))
                for value in each
            ]
            notes = [*(["no prediction"] if scores.missing else []), *scores.notes]
            found = f"{scores.count('reference', matched=True)} of {scores.count('reference')}"
            cells = [*shares, found, str(scores.count("predicted", matched=False)), f"<td class=text>{escape('; '.join(notes))}"]
            rows.append([escape(case.name), *([escape(name)] if len(names) > 1 else []), *cells])
    shares = ["tumour DSC", "tumour NSD", "organ DSC", "organ NSD"]
    head = ["scan", *(["model"] if len(names) > 1 else []), *shares, "lesions found", "false positives", "notes"]
    table = _table(head, rows)
    shown = " open" if len(rows) <= MOST_SHOWN else ""
    return f"<details{shown}><summary>{_count(len(cases), 'scan')}</summary><div class=scroll>{table}</div></details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table; a cell may bring its own tag."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join("<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{titles}</tr>{body}</table>'


def _estimate(estimate: Estimate, percent: bool, signed: bool = False) -> str:
    """A figure and its interval, as people write them."""
    if math.isnan(estimate.value):
        return "–"
    scale, digits = (100, 1) if percent else (1, 2)
    rounded = (round(scale * x, digits) or 0.0 for x in estimate[:3])  # without the sign of a zero
    value, low, high = (f"{x:{'+' if signed and x else ''}.{digits}f}".replace("-", "−") for x in rounded)
    interval = "" if math.isnan(estimate.low) else f" <span class=interval>[{low}, {high}]</span>"
    return f"<b>{value}</b>{' %' if percent and not signed else ''}{interval}"


def _p_value(p: float) -> str:
    return "–" if math.isnan(p) else "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def _image(figure: Figure | None) -> str:
    if figure is None:
        return "<p>There is nothing to draw.</p>"
    return f'<figure><img alt="" src="data:image/svg+xml;base64,{b64encode(plots.to_svg(figure)).decode()}"></figure>'


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"

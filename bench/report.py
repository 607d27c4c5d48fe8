"""A result as JSON and as a table."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gpu_synth.bench.measure import REFERENCE, Result, Row, ratios

_MEASURED = "measured for this project on the published generator, as a black box, on two CPU cores of another machine"
_AUTHORS = "the authors' answers to frequent questions, beside Hu et al. 2023"
CITED = (
    ("published generator, textures made before, a 96³ patch that is all organ: mean of the classes", 95.0, "ms", _MEASURED),
    ("the same: tiny", 30.0, "ms", _MEASURED),
    ("the same: small", 32.0, "ms", _MEASURED),
    ("the same: medium", 48.0, "ms", _MEASURED),
    ("the same: large", 140.0, "ms", _MEASURED),
    ("the same: mix", 215.0, "ms", _MEASURED),
    ("published generator, what a fresh 96³ texture adds", 155.0, "ms", _MEASURED),
    ("published generator, a whole liver, at the least", 260.0, "ms", _MEASURED),
    ("published generator, a whole liver, at the most", 460.0, "ms", _MEASURED),
    ("published generator, all effects on, a tumour", 5.0, "s", _AUTHORS),
)
CITED_NOTE = "cited, not measured in this run"


def as_json(result: Result) -> dict[str, Any]:
    """The result as it is written down: machine, rows, and what stands beside them."""
    known = ratios(result)
    return {
        **result.machine,
        "copy_gb_per_s": _rounded(result.copy_gb_per_s),
        "reference": {"what": REFERENCE, "ms": _rounded(result.reference_ms)},
        "synthesis_to_reference": _rounded(known["synthesis_to_reference"]),
        "ratios": {name: _rounded(ratio) for name, ratio in known.items()},
        "cited": {"note": CITED_NOTE, "figures": [dict(zip(("what", "value", "unit", "source"), cited, strict=True)) for cited in CITED]},
        "not_measured": [asdict(failure) for failure in result.failures],
        "rows": [{name: _rounded(value) for name, value in _ordered(asdict(row)).items()} for row in result.rows],
    }


def as_text(result: Result) -> str:
    """The same as a file: a row a line."""
    content = as_json(result)
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in content.pop("rows"))
    return json.dumps(content, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n'


def show(result: Result, console: Console) -> None:
    """Print machine, rows and ratios."""
    machine = result.machine
    versions = "  ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    driver = f", driver {machine['driver']}" if machine["driver"] else ""
    console.print(f"[bold]{machine['device']}[/bold]{driver}; host {machine['host']}, {machine['cores']} cores; commit {machine['commit']}")
    console.print(f"{versions}; a copy moves {result.copy_gb_per_s:.3g} GB/s")
    for title, rows in _parts(result.rows):
        console.print(_table(title, rows))
    for failure in result.failures:
        setting = ", ".join(f"{key} {value}" for key, value in asdict(failure).items() if value is not None and key not in ("name", "why"))
        console.print(f"[yellow]not measured: {failure.name} ({setting}): {failure.why}[/yellow]", soft_wrap=True)
    _show_ratios(result, console)


def _show_ratios(result: Result, console: Console) -> None:
    known = ratios(result)
    if result.reference_ms is not None:
        console.print(f"reference: {REFERENCE}: median {result.reference_ms:.1f} ms")
    says = {
        "synthesis_to_reference": "a patch of 96³, mean of the five size classes, takes {} × the reference",
        "synthesis_to_published": "patches per second, all classes, 96³: {} × the published method on one core",
        "synthesis_to_published_banked": "the same against the published method with textures made before: {} ×",
        "synthesis_one_core_to_published": "the same, one core against one core: {} ×",
        "volume_doubled": "twice the volume, with as many lesions in every litre, takes {} × the time",
    }
    for name, text in says.items():
        if (ratio := known[name]) is not None:
            console.print(text.format(f"[bold]{ratio:.3g}[/bold]"))
    cited = "; ".join(f"{what} {value:g} {unit}" for what, value, unit, _ in (CITED[0], CITED[6]))
    console.print(f"[dim]{CITED_NOTE}: {cited} ({_MEASURED})[/dim]", soft_wrap=True)


def _parts(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that share columns, under their titles."""
    parts: dict[str, list[Row]] = {"kernel families": [], "synthesis": [], "its host": [], "beside it": []}
    for row in rows:
        of_call = "its host" if row.launches else "beside it" if row.source else "synthesis"
        parts["kernel families" if row.size_class is None and row.backend else of_call].append(row)
    return [(title, part) for title, part in parts.items() if part]


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    used = [(title, cell) for title, cell in _COLUMNS if any(cell(row) for row in rows)]
    for head, _ in used:
        table.add_column(head, justify="left" if head in ("operation", "class", "how") else "right", no_wrap=True)
    for number, row in enumerate(rows):
        if number and rows[number - 1].name != row.name and row.size_class:
            table.add_section()
        table.add_row(*(cell(row) for _, cell in used))
    return table


def _how(row: Row) -> str:
    loader = f"{row.workers} workers" if row.workers else ""
    source = {"published": "published", "none": "no synthesis"}.get(row.source or "", "")
    backend = f"{row.backend} graph" if row.backend and row.graph else row.backend or ""
    return ", ".join(part for part in (source, backend, loader, row.model or "", row.effect or "") if part)


def _grid(row: Row) -> str:
    return f"{row.patch}³" if row.patch else "×".join(map(str, row.shape_vox or ()))


def _figure(name: str, form: str = "") -> Callable[[Row], str]:
    """A field of a row: three digits, or as told."""

    def cell(row: Row) -> str:
        value = getattr(row, name)
        if value is None:
            return ""
        return form.format(value) if form else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

    return cell


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("operation", lambda row: row.name),
    ("class", lambda row: row.size_class or ""),
    ("lesions", _figure("lesions", "{}")),
    ("batch", _figure("batch", "{}")),
    ("voxels", _grid),
    ("how", _how),
    ("ms", _figure("ms")),
    ("mean", _figure("mean_ms")),
    ("p90", _figure("p90_ms")),
    ("device", _figure("device_ms")),
    ("call", _figure("call_ms")),
    ("floor", _figure("floor_ms")),
    ("× floor", _figure("times_floor")),
    ("images/s", _figure("images_per_second")),
    ("× published", _figure("times_published")),
    ("× plain", _figure("times_plain")),
    ("launches", _figure("launches", "{}")),
    ("torch's", _figure("device_operations", "{}")),
    ("operations", _figure("operations", "{}")),
    ("share", _figure("share", "{:.2%}")),
    ("GPU used", _figure("gpu_utilisation", "{:.0%}")),
)


def _ordered(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its name in front."""
    return {"name": row.pop("name"), "what": row.pop("what"), **row}


def _rounded(value: Any) -> Any:
    """Five digits of a float: more than any clock here is good for."""
    return float(f"{value:.5g}") if isinstance(value, float) else value

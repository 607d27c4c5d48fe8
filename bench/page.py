"""Tables of a page, written from the results that it cites: `python -m gpu_synth.bench.page bench/README.md README.md`.

A page marks the place of a table with `<!-- families of bench/results/name.json -->` and its end with `<!-- end -->`; paths are from the
repository's root, and `*` in one stands for what differs between the runs of `gpu_synth.bench.learning`. What stands between is replaced.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from gpu_synth.bench.effects import PLAIN
from gpu_synth.bench.learning.tables import TABLES as LEARNING
from gpu_synth.bench.machine import REPOSITORY
from gpu_synth.bench.settings import ALL
from gpu_synth.presets import SIZE_CLASSES

MODEL_RATES = (2, 10, 50, 250)  # patches that a model takes in a second
_BLOCK = re.compile(r"(<!-- ([a-z-]+) of (\S+\.json) -->\n).*?(<!-- end -->)", re.DOTALL)
_Row = dict[str, Any]
_HEADS = {
    "ms": "ms",
    "mean_ms": "mean ms",
    "p90_ms": "p90",
    "device_ms": "device, ms",
    "floor_ms": "floor, ms",
    "times_floor": "× floor",
    "images_per_second": "patches/s",
    "times_published": "× published",
}


def filled(page: str) -> str:
    """The page with its tables written from the results."""

    def block(match: re.Match[str]) -> str:
        results = [json.loads(path.read_text()) for path in sorted(REPOSITORY.glob(match[3]))]
        table = _table(*LEARNING[match[2]](results)) if match[2] in LEARNING else TABLES[match[2]](*results)
        return f"{match[1]}\n{table}\n\n{match[4]}"

    return _BLOCK.sub(block, page)


def machine(result: dict[str, Any]) -> str:
    """Where and what was measured."""
    known = {name: number for name, number in result["versions"].items() if number}
    driver = f", driver {result['driver']}" if result["driver"] else ""
    return (
        f"{result['device']}{driver}, {result['cores']} host cores, a copy moves {_short(result['copy_gb_per_s'])} GB/s; "
        f"{', '.join(f'{name} {number}' for name, number in known.items())}; commit {result['commit']}, {result['date']}."
    )


def families(result: dict[str, Any]) -> str:
    """Kernel families against their floor; on a GPU also the work alone, without its launches."""
    chosen = [row for row in result["rows"] if row["size_class"] is None and row["backend"]]
    keys = ("ms", "p90_ms", *_if_any(chosen, "device_ms"), "floor_ms", "times_floor")
    rows = [(row["name"], row["what"], row["batch"], row["backend"], *(_short(row[key]) for key in keys)) for row in chosen]
    return _table(("family", "what", "batch", "backend", *(_HEADS[key] for key in keys)), rows)


def classes(result: dict[str, Any]) -> str:
    """The whole synthesis at 96³ by size class."""
    chosen = _at_96(result)
    keys = ("mean_ms", "ms", "p90_ms", *_if_any(chosen, "device_ms"), "floor_ms", "images_per_second", "times_published")
    rows = [(row["size_class"], row["batch"], _how(row), *(_short(row[key]) for key in keys)) for row in chosen]
    heads = {**_HEADS, "ms": "median"}
    return _table(("size class", "batch", "backend", *(heads[key] for key in keys)), rows)


def batches(result: dict[str, Any]) -> str:
    """The whole synthesis, all classes, by patch and batch."""
    chosen = [row for row in _named(result, "synthesis") if row["size_class"] == ALL]
    keys = ("mean_ms", *_if_any(chosen, "device_ms"), "floor_ms", "images_per_second")
    rows = [(f"{row['patch']}³", row["batch"], _how(row), *(_short(row[key]) for key in keys)) for row in chosen]
    return _table(("patch", "batch", "backend", *(_HEADS[key] for key in keys)), rows)


def steps(result: dict[str, Any]) -> str:
    """What part of a training step is synthesis."""
    chosen = [row for row in result["rows"] if row["name"].startswith("step-share")]
    rows = [(row["model"], row["batch"], _how(row), _short(row["mean_ms"]), f"{row['share']:.1%}", _percent(row)) for row in chosen]
    return _table(("model", "batch", "backend", "mean ms a step", "of it synthesis", "GPU used"), rows)


def published(result: dict[str, Any]) -> str:
    """The published method on one core, and ours on one core."""
    names = {"published": "published, fresh texture", "published-banked": "published, textures made before", "synthesis-one-core": "ours"}
    rows = [
        (text, row["size_class"], *(_short(row[key]) for key in ("mean_ms", "p90_ms", "images_per_second")))
        for name, text in names.items()
        for row in _named(result, name)
    ]
    return _table(("on one core, 96³", "size class", "mean ms", "p90", "patches/s"), rows)


def end_to_end(result: dict[str, Any]) -> str:
    """What reaches the model."""
    sources = {"none": "none", "ours": "ours, on the device", "published": "published method, in the loader's workers"}
    rows = [
        (sources[row["source"]], _how(row), row["workers"], row["model"] or "none", _short(row["images_per_second"]), _percent(row))
        for row in _named(result, "end-to-end")
    ]
    return _table(("synthesis", "backend", "workers", "model", "patches/s", "GPU used"), rows)


def feeds(result: dict[str, Any]) -> str:
    """What brings patches to the device."""
    names = {"feed-resident": "scans on the device", "feed-disk": "memory-mapped files"}
    rows = [
        (
            text,
            "ours" if row["source"] == "ours" else "none",
            _how(row),
            row["workers"],
            *map(_short, (row["mean_ms"], row["images_per_second"])),
        )
        for name, text in names.items()
        for row in _named(result, name)
    ]
    return _table(("patches from", "synthesis", "backend", "workers", "mean ms a batch", "patches/s"), rows)


def ratios(result: dict[str, Any]) -> str:
    """What is promised."""
    says = {
        "synthesis_to_reference": f"a patch, mean of the five size classes, over one `{result['reference']['what']}`",
        "synthesis_to_published": "patches per second, all classes, over the published method on one core, fresh textures",
        "synthesis_to_published_banked": "the same, over the published method with textures made before",
        "synthesis_one_core_to_published": "the same as the first of these, ours on one core too",
        "volume_doubled": "time when the volume doubles, lesions per volume kept",
    }
    return _table(("ratio", "×"), [(text, _short(result["ratios"][name])) for name, text in says.items() if result["ratios"][name]])


def effects(result: dict[str, Any]) -> str:
    """Each effect of the lesion model alone, all together, and the published method, as multiples of the latter, run beside them."""
    rows = [
        (row["effect"], row["batch"], _how(row), _short(row["mean_ms"]), _short(1.0 if row["effect"] == PLAIN else row["times_plain"]))
        for row in _named(result, "effects")
    ]
    return _table(("what is on", "batch", "backend", "mean ms", "× published method"), rows)


def host(result: dict[str, Any]) -> str:
    """What a call costs its host, by preset."""
    rows = [
        (
            row["effect"],
            f"{row['batch']} × {row['patch']}³",
            _short(row["ms"]),
            *(row[key] for key in ("launches", "device_operations", "operations")),
        )
        for row in _named(result, "host")
    ]
    head = ("preset", "patches", "ms without launches", "kernels launched", "torch's operations on the device", "all of torch's operations")
    return _table(head, rows)


def cores_needed(result: dict[str, Any]) -> str:
    """Cores that the published method keeps busy so that a model need not wait."""
    names = ("published", "published-banked")
    rates = [next(row["images_per_second"] for row in _named(result, name) if row["size_class"] == ALL) for name in names]
    rows = [(taken, *(ceil(taken / rate) for rate in rates)) for taken in MODEL_RATES]
    return _table(("a model takes, patches/s", "cores, fresh textures", "cores, textures made before"), rows)


def cited(result: dict[str, Any]) -> str:
    """What others measured."""
    figures = [(figure["what"], f"{figure['value']:g} {figure['unit']}", figure["source"]) for figure in result["cited"]["figures"]]
    return _table((result["cited"]["note"], "", "source"), figures)


def readme(result: dict[str, Any]) -> str:
    """The one table of the project's own page: plan and render of a patch, class by class, by the fastest there is."""
    lesions = ("3–10 of 3–5 mm", "3–10 of 6–10 mm", "2–5 of 12–20 mm", "1–3 of 24–40 mm", "11–28 of all four")
    chosen = _at_96(result)
    fastest = max((row for row in chosen if row["size_class"] == ALL), key=lambda row: row["images_per_second"])
    first = {row["size_class"]: row for row in chosen if _how(row) == _how(fastest)}
    batch = fastest["batch"]
    rows = [
        (
            name,
            text,
            f"{_two(first[name]['mean_ms'] / batch)} ms",
            f"{_two(first[name]['floor_ms'] / batch)} ms",
            f"{_two(first[name]['times_published'])} ×",
        )
        for name, text in zip(SIZE_CLASSES, lesions, strict=True)
    ]
    made = "plan and render" if batch == 1 else f"plan and render, a patch of {batch} at once, {_how(fastest)}"
    return _table(("size class", "lesions in a scan", made, "moving the same bytes", "faster than the published method on one core"), rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    table.__name__.replace("_", "-"): table
    for table in (
        *(machine, families, classes, batches, steps, published, effects, feeds, end_to_end, ratios, host, cores_needed, cited, readme),
    )
}


def _named(result: dict[str, Any], name: str) -> list[_Row]:
    return [row for row in result["rows"] if row["name"] == name]


def _at_96(result: dict[str, Any]) -> list[_Row]:
    """The whole synthesis at 96³: as many patches at once as the kernel families were given, one on a host; else as few as there are."""
    rows = [row for row in _named(result, "synthesis") if row["patch"] == 96]
    there = {row["batch"] for row in rows}
    of_families = {row["batch"] for row in result["rows"] if row["size_class"] is None and row["backend"]} & there
    batch = min(of_families or there, default=0)
    return [row for row in rows if row["batch"] == batch]


def _if_any(rows: Sequence[_Row], key: str) -> tuple[str, ...]:
    """A column, where any row has it."""
    return (key,) if any(row[key] is not None for row in rows) else ()


def _how(row: _Row) -> str:
    return f"{row['backend']} graph" if row["graph"] else row["backend"] or ""


def _percent(row: _Row) -> str:
    return f"{row['gpu_utilisation']:.0%}" if row["gpu_utilisation"] is not None else ""


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _two(value: float) -> str:
    """Two digits, and one behind the point of what is larger."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text()))

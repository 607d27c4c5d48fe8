"""The card beside a synthetic data set: what is in it, how it was made, and what it must not be used for.

It tells of all that lies in the folder, as a function of the volumes' records alone, without a date: `data-card.json` for programs,
`data-card.md` with its plots for people.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gpu_synth.evaluate.lesions import SIZE_EDGES_MM, SIZES
from gpu_synth.synthesize.card_plots import Measured, plots

FORMAT = "gpu-synth data card 1"
NAME = "data-card"
PUBLISHED = "published law"  # the kind of lesions of presets that have none
NOT_FOR = (
    "Diagnosis, treatment, or any decision on a person. The tumours are computed; none of these patients had them.",
    "Measuring how well a method finds real tumours. A score on synthetic tumours is no estimate of that: test on annotated real ones.",
    "Statistics of disease. Sizes, kinds, counts and contrasts follow the preset, not patients.",
    "Being shown or passed on as real scans. Say that the tumours are synthetic wherever the images go.",
    "Splits across variants. Volumes of one case share its patient: keep them on one side of a split.",
    "Uses that the source scans' licences and consents do not allow. The anatomy is still the patients'.",
)
FRESH = (
    "For training, tumours that are made anew at every step serve better than a fixed set (DSC 52.9 against 43.5 %, by the authors of Hu "
    "et al. 2023): `gpu-synth fit` makes them so."
)
LAYOUT = {
    "images": "CT with tumours: header, affine, dtype and every voxel that no tumour reaches as in the source",
    "labels": "the source's mask with the tumours in it",
    "instances": "number of the lesion in each voxel, as `lesion` in plans and records",
    "plans": "what was asked for; a copy, edited, is rendered by `gpu-synth synthesize --plan`",
    "records": "what came of it: each lesion asked for and measured, sources by SHA-256, settings",
}


def write_card(root: Path, records: Sequence[dict[str, Any]], rank: int = 0) -> Path:
    """Write the card of a data set.

    Args:
        root: Its folder.
        records: All of its records.
        rank: Of this process: several may write the same card at once.

    Returns:
        The Markdown file.
    """
    done = [record for record in records if "refused" not in record]
    lesions = [_measured(lesion["came"]) for record in done for lesion in record["lesions"]]
    facts = card_facts(records, lesions)
    drawn = plots(lesions, [(len(record["lesions"]), _share(record)) for record in done]) if lesions else {}
    files = {f"{NAME}/{name}.png": png for name, png in drawn.items()}
    files[f"{NAME}.json"] = (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()
    files[f"{NAME}.md"] = "\n".join(_markdown(facts, list(drawn))).encode()
    (root / NAME).mkdir(exist_ok=True)
    for name, content in files.items():
        _publish(root / name, content, rank)
    for old in (root / NAME).glob("*.png"):  # of lesions that are no longer there
        if old.stem not in drawn:
            old.unlink(missing_ok=True)
    return root / f"{NAME}.md"


def _publish(path: Path, content: bytes, rank: int) -> None:
    """Write a file as a whole, while another process may be writing the same."""
    partial = path.with_name(f"{path.name}.{rank}.partial")
    if path.is_file() and path.read_bytes() == content:
        partial.unlink(missing_ok=True)  # of a run that was killed
        return
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _measured(came: dict[str, Any]) -> Measured:
    numbers = (came["equivalent_radius_mm"], 0.0 - came["mean_drop_hu"], came["contrast_to_noise"])
    return Measured(*numbers, came.get("kind", PUBLISHED))


def _share(record: dict[str, Any]) -> float:
    """Percent of the organ that is tumour."""
    return float(100 * record["tumor_ml"] / record["organ_ml"])


def card_facts(records: Sequence[dict[str, Any]], lesions: Sequence[Measured]) -> dict[str, Any]:
    """Everything that the card tells.

    Args:
        records: All records.
        lesions: The lesions of those that are there, measured.
    """
    done = [record for record in records if "refused" not in record]
    sizes = Counter(SIZES[int(np.searchsorted(SIZE_EDGES_MM, lesion.radius_mm, side="right"))] for lesion in lesions)
    notes = Counter(note for record in done for note in record["notes"])
    return {
        "format": FORMAT,
        "cases": len({record["case"] for record in done}),
        "volumes": len(done),
        "edited_plans": sum(record["edited"] for record in done),
        "lesions": len(lesions),
        "lesions_by_radius_mm": {size: sizes[size] for size in SIZES},
        "lesions_by_kind": dict(sorted(Counter(lesion.kind for lesion in lesions).items())),
        "cirrhotic_volumes": sum(record["cirrhotic"] for record in done),
        "lesions_cut_by_border": sum(lesion["came"].get("cut_by_border", False) for record in done for lesion in record["lesions"]),
        "statistics": {
            "lesions in a volume": _spread(len(record["lesions"]) for record in done),
            "equivalent radius, mm": _spread(lesion.radius_mm for lesion in lesions),
            "contrast to the organ, HU": _spread(lesion.contrast_hu for lesion in lesions),
            "contrast to noise": _spread(lesion.contrast_to_noise for lesion in lesions),
            "tumour in a volume, ml": _spread(record["tumor_ml"] for record in done),
            "tumour, % of the organ": _spread(_share(record) for record in done),
            "organ, ml": _spread(record["organ_ml"] for record in done),
            "organ before synthesis, HU": _spread(record["organ_hu"] for record in done),
        },
        "spacing_mm": {
            axis: _spread(record["grid"]["spacing_mm"][n] for record in done) for n, axis in enumerate(("first", "second", "third"))
        },
        "axes": dict(sorted(Counter(record["grid"]["axes"] for record in done).items())),
        "dtypes": dict(sorted(Counter(record["dtype"] for record in done).items())),
        "notes": dict(sorted(notes.items())),
        "refused": {record["name"]: record["refused"] for record in records if "refused" in record},
        "made_by": _made_by(done),
        "must_not_be_used_for": list(NOT_FOR),
    }


def _spread(values: Iterable[float]) -> dict[str, float] | None:
    numbers = np.array(list(values), np.float64)
    if not len(numbers):
        return None
    low, median, high = np.percentile(numbers, (5, 50, 95))
    ends = {"least": numbers.min(), "p5": low, "median": median, "p95": high, "most": numbers.max(), "mean": numbers.mean()}
    return {name: round(float(value), 3) for name, value in ends.items()}


def _made_by(done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each way in which volumes were made, the most frequent first, and how many were."""
    ways = Counter(json.dumps({"recipe": record["recipe"], "versions": record["versions"]}, sort_keys=True) for record in done)
    ordered = sorted(ways.items(), key=lambda item: (-item[1], item[0]))
    first = {json.dumps({"recipe": r["recipe"], "versions": r["versions"]}, sort_keys=True): r for r in reversed(done)}
    return [{"volumes": n, "recipe": first[way]["recipe"], "versions": first[way]["versions"]} for way, n in ordered]


def _markdown(facts: dict[str, Any], drawn: Sequence[str]) -> Iterable[str]:
    yield "# Synthetic tumours in CT: data card\n"
    cases = f"{_count(facts['volumes'], 'volume')} of {_count(facts['cases'], 'case')}, {_count(facts['lesions'], 'lesion')}"
    refused = f"; {_count(len(facts['refused']), 'volume')} refused, see below" if facts["refused"] else ""
    yield f"{cases}{refused}. **Every tumour in these images is synthetic.**\n"
    yield "## Must not be used for\n"
    yield from (f"- {use}" for use in facts["must_not_be_used_for"])
    yield f"\n{FRESH}\n"
    yield "## What is in it\n"
    yield "| folder | |\n| --- | --- |"
    yield from (f"| `{folder}/` | {what} |" for folder, what in LAYOUT.items())
    yield "\n| | least | 5 % | median | 95 % | most | mean |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    spreads = {**facts["statistics"], **{f"voxel spacing, {axis} axis, mm": spread for axis, spread in facts["spacing_mm"].items()}}
    yield from (f"| {what} | {' | '.join(f'{value:g}' for value in s.values())} |" for what, s in spreads.items() if s)
    yield "\n| equivalent radius, mm | lesions |\n| --- | ---: |"
    yield from (f"| {size} | {n} |" for size, n in facts["lesions_by_radius_mm"].items())
    yield "\n| kind | lesions |\n| --- | ---: |"
    yield from (f"| {kind} | {n} |" for kind, n in facts["lesions_by_kind"].items())
    counts = {"Axes": facts["axes"], "Stored as": facts["dtypes"]}
    yield "".join(f"\n{what}: {', '.join(f'{name} ({n})' for name, n in of.items())}." for what, of in counts.items() if of)
    yield (
        f"\nWith a cirrhotic organ: {facts['cirrhotic_volumes']}. From edited plans: {facts['edited_plans']}. "
        f"Lesions that the scan's border cuts: {facts['lesions_cut_by_border']}.\n"
    )
    yield from (f"![{name}]({NAME}/{name}.png)\n" for name in drawn)
    yield "## How it was made\n"
    yield "The same sources, preset, seed and versions give the same files; a volume's uid is a hash of its case's name and variant.\n"
    for way in facts["made_by"]:
        yield from _way(way)
    lists = {
        "Refused": [f"- {name}: {why}" for name, why in facts["refused"].items()],
        "What looks odd": [f"- {_count(n, 'volume')}: {note}" for note, n in facts["notes"].items()],
    }
    for title, lines in lists.items():
        if lines:
            yield f"## {title}\n"
            yield from lines
            yield ""


def _way(way: dict[str, Any]) -> Iterable[str]:
    """One way in which volumes were made, its preset in full."""
    recipe, preset = dict(way["recipe"]), way["recipe"]["preset"]
    name = preset["name"] if isinstance(preset, dict) else f"{preset}, its plans edited"
    yield f"{_count(way['volumes'], 'volume')} by gpu-synth {recipe['gpu_synth']}, preset {name}, seed {recipe['seed']}"
    yield f"({', '.join(f'{package} {number}' for package, number in way['versions'].items())}):\n"
    yield "```yaml"
    yield yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=120).rstrip()
    yield "```\n"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"

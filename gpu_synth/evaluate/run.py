"""`gpu-synth evaluate`: predictions scored against references, as JSON, CSV and one HTML report."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from gpu_synth import __version__
from gpu_synth.conform import MOST_LABELS
from gpu_synth.evaluate.case import Case, Settings, score_case
from gpu_synth.evaluate.intervals import RESAMPLES, SEED, Estimate
from gpu_synth.evaluate.overlap import TOLERANCE_MM
from gpu_synth.evaluate.pairing import Files, pair
from gpu_synth.evaluate.pictures import picture, worst
from gpu_synth.evaluate.report import Picture, report
from gpu_synth.evaluate.summary import Evaluation, Model, as_json, headline, summarise
from gpu_synth.evaluate.tables import case_rows, lesion_rows, write_csv
from gpu_synth.files import check_folder_to_write, whole_file
from gpu_synth.manifest import write_json
from gpu_synth.pool import check_workers, each


def evaluate(
    *,
    predictions: str,
    references: str,
    out: str,
    images: str | None = None,
    compare: str | None = None,
    probabilities: str | None = None,
    organ_labels: tuple[int, ...] = (1,),
    tumor_labels: tuple[int, ...] = (2,),
    predicted_organ_labels: tuple[int, ...] = (1,),
    predicted_tumor_labels: tuple[int, ...] = (2,),
    organ_names: tuple[str, ...] = (),
    tumor_names: tuple[str, ...] = (),
    series: str | None = None,
    postprocess: bool = False,
    workers: int = 0,
) -> dict[str, Any]:
    """Score label maps against references on their own grids; write scores.json, cases.csv, lesions.csv and report.html.

    A reference without a prediction counts as predicted empty. A case whose files cannot be used, or whose grids differ, is refused with a
    reason, and the others go on; the report says both.

    Args:
        predictions: Folder of NIfTI label maps, such as `gpu-synth predict` writes, or a quoted glob.
        references: The masks that are right, the same, or RTSTRUCT or DICOM-SEG as for `gpu-synth prepare`; matched by name, endings such
            as _ct_seg and _liver may differ.
        out: Folder to write.
        images: The CTs, NIfTI or DICOM, for pictures; references that are DICOM are drawn on them, else on the predictions' grids.
        compare: Another model's predictions, for a paired comparison, the same.
        probabilities: Tumour probabilities of the predictions, the same; by default their folder `probabilities`, where there is one.
        organ_labels: Values of references that are NIfTI that are the organ.
        tumor_labels: Values of them that are tumour.
        predicted_organ_labels: Values of the predictions that are the organ.
        predicted_tumor_labels: Values of the predictions that are tumour.
        organ_names: Names of ROIs of an RTSTRUCT, or of segments of a DICOM-SEG, that are the organ, in any case.
        tumor_names: Names of those that are tumour.
        series: Where a DICOM folder holds several CTs, the one to take: its number, or a part of its description.
        postprocess: Keep the organ's largest component and tumours near it first, as `gpu-synth predict` does already.
        workers: Processes; each needs about 40 bytes a voxel of its scan. 0 works in this process.

    Returns:
        What scores.json holds.

    Raises:
        ValueError: An argument is out of range, or no prediction belongs to a reference.
        OSError: The folder cannot be written.
        ImportError: A DICOM-SEG is to be read without highdicom.
    """
    settings = _settings(organ_labels, tumor_labels, predicted_organ_labels, predicted_tumor_labels, postprocess)
    settings = replace(settings, organ_names=tuple(organ_names), tumor_names=tuple(tumor_names), series=series)
    check_workers(workers)
    pairing = pair(references, predictions, compare, probabilities, images)
    wheres = [predictions] if compare is None else [predictions, compare]
    models = [Model(*row) for row in zip(_names(wheres), wheres, pairing.extra, pairing.has_probabilities, strict=True)]
    root = check_folder_to_write("out", out)
    cases, refused = _score(pairing.cases, settings, workers)
    found = Evaluation(references, settings, models, cases, refused, [summarise(cases, n) for n in range(len(models))])
    page = report(found, _pictures(cases, pairing.cases, settings))
    scores = _scores_json(found)
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "scores.json", scores)
    write_csv(root / "cases.csv", case_rows(cases, refused, found.names))
    write_csv(root / "lesions.csv", lesion_rows(cases, found.names))
    with whole_file(root / "report.html") as stream:
        stream.write(page.encode())
    _print(found, root)
    return scores


def _score(files: Sequence[Files], settings: Settings, workers: int) -> tuple[list[Case], list[tuple[str, str]]]:
    """Score all scans; those that can be, and name and reason of the others."""
    results: dict[str, Case | str] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("scoring", total=len(files))
        for scan, result in each(partial(score_case, settings=settings), files, workers):
            results[scan.case] = result
            progress.update(task, advance=1, description=f"scored {escape(scan.case)}")
    ordered = [(scan.case, results[scan.case]) for scan in files]
    cases = [result for _, result in ordered if isinstance(result, Case)]
    refused = [(name, result) for name, result in ordered if isinstance(result, str)]
    if not cases:
        raise ValueError(f"predictions must hold a case that can be scored, got {len(refused)} refused; {refused[0][0]}: {refused[0][1]}")
    return cases, refused


def _scores_json(found: Evaluation) -> dict[str, Any]:
    """All that is known, but for single scans and lesions."""
    return {
        "format": 1,
        "settings": {**asdict(found.settings), "tolerance_mm": TOLERANCE_MM, "bootstrap": {"resamples": RESAMPLES, "seed": SEED}},
        "versions": {"gpu-synth": __version__, **{name: version(name) for name in ("monai", "scipy", "numpy")}},
        "references": found.references,
        "models": {model.name: model.where for model in found.models},
        "scored": len(found.cases),
        "refused": dict(found.refused),
        "missing": {name: found.missing(n) for n, name in enumerate(found.names)},
        "without_reference": {model.name: list(model.extra) for model in found.models},
        "scores": as_json(found.cases, found.summaries, found.names),
    }


def _pictures(cases: Sequence[Case], files: Sequence[Files], settings: Settings) -> list[Picture]:
    """Pictures of the worst scans."""
    by_name, drawn = {scan.case: scan for scan in files}, []
    for case in worst(cases):
        scores = case.models[0]
        said = [f"tumour DSC {100 * scores.tumor.dsc:.1f} %"] if case.tumor_ml else []
        said += [f"organ DSC {100 * scores.organ.dsc:.1f} %"] if case.organ_drawn else []
        said.append(f"{scores.count('reference', True)} of {scores.count('reference')} lesions found")
        said.append(f"{scores.count('predicted', False)} false positives")
        png, why = picture(by_name[case.name], settings)
        drawn.append(Picture(case.name, png, "; ".join([*said, *(["no prediction"] if scores.missing else []), *([why] if why else [])])))
    return drawn


def _names(wheres: Sequence[str]) -> list[str]:
    """What models are called: the last parts of where they lie that tell them apart."""
    if len({Path(where).resolve() for where in wheres}) < len(wheres):
        raise ValueError(f"compare must be other predictions, got {wheres[1]} for both; leave it out")
    parts = [Path(where).parts or (where,) for where in wheres]
    for n in range(1, max(map(len, parts))):
        names = ["/".join(each[-n:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(wheres)


def _settings(
    organ: tuple[int, ...], tumor: tuple[int, ...], predicted_organ: tuple[int, ...], predicted_tumor: tuple[int, ...], postprocess: bool
) -> Settings:
    for prefix, ours, theirs in (("", organ, tumor), ("predicted_", predicted_organ, predicted_tumor)):
        every = [*ours, *theirs]
        if not ours or not theirs or len(set(every)) < len(every) or not all(0 < value < MOST_LABELS for value in every):
            raise ValueError(
                f"{prefix}organ_labels and {prefix}tumor_labels must be whole numbers from 1, at least one each and none in both, got "
                f"{list(ours)}, {list(theirs)}"
            )
    return Settings(tuple(organ), tuple(tumor), tuple(predicted_organ), tuple(predicted_tumor), postprocess)


def _print(found: Evaluation, root: Path) -> None:
    """The headline, as the report has it."""
    console, table = Console(), Table("mean [95 % interval]", *(escape(name) for name in found.names))
    for row in headline(found.summaries):
        table.add_row(row.title, *(_words(estimate, row.percent) for estimate in row.estimates))
    console.print(table)
    for name, why in found.refused:
        console.print(f"[red]refused[/red] {escape(name)}: {escape(why)}", soft_wrap=True)
    for n, name in enumerate(found.names):
        if missing := found.missing(n):
            console.print(f"[red]no prediction[/red] by {escape(name)}, counted as empty: {escape(', '.join(missing))}", soft_wrap=True)
    console.print(f"{len(found.cases)} cases scored, {len(found.refused)} refused; {escape(str(root / 'report.html'))}", soft_wrap=True)


def _words(estimate: Estimate, percent: bool) -> str:
    scale, digits = (100, 1) if percent else (1, 2)
    value, low, high = ("–" if math.isnan(x) else f"{scale * x:.{digits}f}" for x in estimate[:3])
    return f"{value} \\[{low}, {high}]" if low != "–" else value

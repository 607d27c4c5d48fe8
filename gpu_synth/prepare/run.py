"""`gpu-synth prepare`: CTs and organ masks on any grid become int16 HU and uint8 labels, RAS, on one spacing, ready to be memory-mapped.

A case is written image first, then label, picture and `case.json`, each as a whole; `sheet.png` and `manifest.json` come last. A run that
was interrupted, even by force, is repeated with the same command: cases whose sources and settings have not changed are kept. Sources are
known by their content; only where a file's place, size or times differ is it read again to tell.
"""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from gpu_synth.conform import MOST_LABELS, describe, prepare_ct, prepare_label
from gpu_synth.datasets import dataset_named, find_cases
from gpu_synth.datasets.prepared import prepare_case
from gpu_synth.dicom.files import files_of
from gpu_synth.files import check_folder_to_write, content_sha256, stamp
from gpu_synth.manifest import FORMAT, HEADER_BYTES, Case, Manifest, write_json
from gpu_synth.oddities import oddities
from gpu_synth.pool import check_workers, each
from gpu_synth.prepare.sheet import case_picture, save_picture, save_sheet
from gpu_synth.prepare.summary import print_summary
from gpu_synth.sources import Source, find_sources
from gpu_synth.volumes import SPACING_LIMITS_MM, Volume, VolumeError, save_nifti


class Done(NamedTuple):
    """A prepared case, and whether an earlier run had prepared it."""

    case: Case
    kept: bool


def prepare(
    *,
    out: str | Path,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    datalist: str | Path | None = None,
    dataset: str | None = None,
    root: str | Path | None = None,
    organ: str = "liver",
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    organ_labels: tuple[int, ...] = (1,),
    tumor_labels: tuple[int, ...] = (),
    organ_names: tuple[str, ...] = (),
    tumor_names: tuple[str, ...] = (),
    series: str | None = None,
    strict: bool = False,
    workers: int = 0,
) -> Manifest:
    """Prepare CTs with organ masks for training; a case that cannot be used is refused with a reason and the others go on.

    Args:
        out: folder to write; one run at a time.
        images: folder of NIfTI CTs, folder of DICOM folders (one a case), or a quoted glob of either.
        labels: the same for the masks, NIfTI, RTSTRUCT or DICOM-SEG; matched to the images by name (see `find_sources`).
        datalist: instead of both, a Decathlon-style dataset.json.
        dataset: instead of all three, a public data set: lits, msd-liver, chaos, btcv, pancreas-ct or 3d-ircadb-01.
        root: the folder of that data set, as downloaded and unpacked; it tells its cases and what its masks' values mean.
        organ: which organ of that data set: liver; of btcv also spleen, kidney, pancreas; of pancreas-ct also pancreas.
        spacing_mm: voxel spacing to resample to, along right, anterior, superior.
        organ_labels: values of a NIfTI mask that are the organ.
        tumor_labels: values of a NIfTI mask that are real tumour.
        organ_names: names of ROIs of an RTSTRUCT, or of segments of a DICOM-SEG, that are the organ, in any case.
        tumor_names: names of those that are real tumour.
        series: where a DICOM folder holds several CTs, the one to take: its number, or a part of its description.
        strict: refuse what looks odd: a tiny organ, more components than usual, no soft tissue's HU, a mask the wrong way
            round, an organ cut by the border.
        workers: processes; each needs about 16 bytes a voxel of the larger of its CT's two grids. 0 works in this process.

    Returns:
        The manifest as written to `out`; its `refused` is empty when all went well.

    Raises:
        ValueError: an argument is out of range, or images and labels cannot be paired.
        OSError: the folder cannot be written; what was finished before is kept.
        ImportError: a DICOM-SEG is to be read without highdicom.
    """
    settings = _settings(spacing_mm, organ_labels, tumor_labels)
    names = {"organ_names": list(organ_names), "tumor_names": list(tumor_names), "series": series}
    settings |= {name: value for name, value in names.items() if value}
    check_workers(workers)
    if dataset is None and root is None:
        if organ != "liver":
            raise ValueError(f"organ must be given with dataset alone, got {organ!r}; of other masks --organ_labels tells the values")
        sources = find_sources(images, labels, datalist)
    else:
        others: dict[str, Any] = {"images": images, "labels": labels, "datalist": datalist, **names, "tumor_labels": tumor_labels}
        others["organ_labels"] = tuple(organ_labels) != (1,)
        sources = _sources_of(dataset, root, organ, [name for name, value in others.items() if value])
        values = dataset_named(str(dataset)).organs[organ]
        settings |= {"dataset": dataset, "organ": organ, "organ_labels": list(values.organ), "tumor_labels": list(values.tumor)}
    folder = check_folder_to_write("out", out)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Done | str] = {source.name: Done(case, True) for source in sources if (case := _unchanged(source, folder, settings))}
    pending = [source for source in sources if source.name not in results]
    if pending:  # from here on the old manifest no longer tells the truth
        (folder / "manifest.json").unlink(missing_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("preparing", total=len(sources), completed=len(results))
        for source, result in each(partial(_prepare_case, root=folder, settings=settings), pending, workers):
            results[source.name] = result
            progress.update(task, advance=1, description=f"prepared {escape(source.name)}")
    done = [result for source in sources if isinstance(result := results[source.name], Done)]
    cases = tuple(result.case for result in done)
    refused = tuple((source.name, result) for source in sources if isinstance(result := results[source.name], str))
    whole = Manifest(folder, settings, cases, refused, oddities(cases))
    manifest = _without_odd(whole) if strict else whole
    if not _is_saved(manifest):
        save_sheet(whole)
        manifest.save()
    print_summary(manifest, sum(result.kept for result in done))
    return manifest


def _sources_of(dataset: str | None, root: str | Path | None, organ: str, others: Sequence[str]) -> list[Source]:
    """The cases of a data set by name; says how many there are."""
    if dataset is None or root is None:
        raise ValueError(f"dataset and root must be given together, got {dataset=}, {root=}; --dataset lits --root FOLDER")
    if others:
        raise ValueError(f"dataset must be given without {', '.join(others)}, got {dataset!r}; it tells its files and labels itself")
    found = find_cases(dataset_named(dataset), root, organ)
    Console(stderr=True).print(escape(found.summary), soft_wrap=True)
    return found.sources


def _without_odd(whole: Manifest) -> Manifest:
    """Refuse what looks odd, too."""
    odd = dict(whole.odd)
    mend = f"look at {whole.root / 'sheet.png'}, mend the mask, or run without --strict"
    refused = [(name, f"looks odd: {'; '.join(findings)}; {mend}") for name, findings in whole.odd]
    return replace(whole, cases=tuple(case for case in whole.cases if case.name not in odd), refused=(*whole.refused, *refused), odd=())


def _is_saved(manifest: Manifest) -> bool:
    try:
        return (manifest.root / "sheet.png").is_file() and json.loads((manifest.root / "manifest.json").read_text()) == manifest.record()
    except (OSError, ValueError):
        return False


def _prepare_case(source: Source, root: Path, settings: dict[str, Any]) -> Done | str:
    """Prepare and write one case, or say why not; writing errors, such as a full disk, are raised."""
    folder = root / source.name
    try:
        known, sha256 = _known(source, stamp), _known(source, content_sha256)
        if case := _kept(source, root, settings, sha256):
            _finish(folder, settings, known, case)
            return Done(case, True)
        image, label, notes = _read(source, settings)
        case = describe(source, image, label.data, notes, sha256)
    except (VolumeError, MemoryError) as error:
        for name in ("case.json", "image.nii", "label.nii", "picture.png"):  # of an earlier run, now untrue
            (folder / name).unlink(missing_ok=True)
            (folder / f"{name}.partial").unlink(missing_ok=True)
        return str(error) or f"{source.image}: not enough memory"
    folder.mkdir(exist_ok=True)
    (folder / "case.json").unlink(missing_ok=True)
    save_nifti(root / case.image, image.data, image.affine)
    save_nifti(root / case.label, label.data, label.affine)
    save_picture(root / case.picture, case_picture(image, label.data))
    _finish(folder, settings, known, case)
    return Done(case, False)


def _read(source: Source, settings: dict[str, Any]) -> tuple[Volume, Volume, list[str]]:
    """A case's image and label on the wanted spacing, and what is odd."""
    if "dataset" in settings:
        return prepare_case(dataset_named(settings["dataset"]), source, settings["organ"], settings["spacing_mm"])
    image, notes = prepare_ct(source.image, settings["spacing_mm"], settings.get("series"))
    chosen = {name: settings[name] for name in ("organ_names", "tumor_names", "series") if name in settings}
    label, label_notes = prepare_label(source, image, settings["organ_labels"], settings["tumor_labels"], **chosen)
    return image, label, notes + label_notes


def _finish(folder: Path, settings: dict[str, Any], stamps: tuple[str, str], case: Case) -> None:
    """Write what says that a case is there, and what it depends on."""
    write_json(folder / "case.json", {"format": FORMAT, "settings": settings, "stamps": stamps, "case": asdict(case)})


def _known(source: Source, by: Callable[[list[Path]], str]) -> tuple[str, str]:
    """What tells image and label from others; empty where one is not there or cannot be read, as reading it will say."""
    told = {"image": "", "label": ""}
    for name, path in (("image", source.image), ("label", source.label)):
        with suppress(OSError):
            told[name] = by(files_of(path)) if path is not None and path.exists() else ""
    return told["image"], told["label"]


def _unchanged(source: Source, root: Path, settings: dict[str, Any]) -> Case | None:
    """The case as an earlier run finished it, where no file of it was touched since."""
    record = _finished(source, root, settings)
    return Case.from_json(record["case"]) if record and tuple(record["stamps"]) == _known(source, stamp) else None


def _kept(source: Source, root: Path, settings: dict[str, Any], sha256: tuple[str, str]) -> Case | None:
    """The case as an earlier run finished it, where its files hold what they held then, wherever they lie now."""
    record = _finished(source, root, settings)
    if not record or (record["case"]["image_sha256"], record["case"]["label_sha256"]) != sha256:
        return None
    label = str(source.label.absolute()) if source.label else ""
    return replace(Case.from_json(record["case"]), source_image=str(source.image.absolute()), source_label=label)


def _finished(source: Source, root: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a case that was finished in this format, with these settings, and is whole."""
    try:
        record: dict[str, Any] = json.loads((root / source.name / "case.json").read_text())
        case = Case.from_json(record["case"])
        sizes = [(root / name).stat().st_size - HEADER_BYTES for name in (case.image, case.label)]
        is_whole = sizes == [2 * math.prod(case.shape), math.prod(case.shape)] and (root / case.picture).is_file()
        return record if is_whole and (record["format"], record["settings"]) == (FORMAT, settings) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _settings(spacing_mm: Sequence[float], organ_labels: Sequence[int], tumor_labels: Sequence[int]) -> dict[str, Any]:
    least, most = SPACING_LIMITS_MM
    if len(spacing_mm) != 3 or not all(least <= mm <= most for mm in spacing_mm):
        raise ValueError(f"spacing_mm must be three numbers from {least} to {most}, got {spacing_mm}; give millimetres, for instance 1,1,1")
    every = [*organ_labels, *tumor_labels]
    if not organ_labels or len(set(every)) < len(every) or not all(0 < value < MOST_LABELS for value in every):
        raise ValueError(
            f"organ_labels must be whole numbers from 1, at least one, and none of them tumor_labels, got {organ_labels}, {tumor_labels}"
        )
    return {"spacing_mm": [float(mm) for mm in spacing_mm], "organ_labels": list(organ_labels), "tumor_labels": list(tumor_labels)}

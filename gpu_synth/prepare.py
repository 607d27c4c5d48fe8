"""`gpu-synth prepare`: CTs and organ masks on any grid become int16 HU and uint8 labels, RAS, on one spacing, ready to be memory-mapped.

A case is written image first, then label, then `case.json`, each as a whole; `manifest.json` comes last. A run that was interrupted is
repeated with the same command: cases whose sources and settings have not changed are kept.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from gpu_synth.conform import MOST_LABELS, describe, prepare_ct, prepare_label
from gpu_synth.files import check_folder_to_write
from gpu_synth.manifest import FORMAT, HEADER_BYTES, Case, Manifest, write_json
from gpu_synth.pool import check_workers, each
from gpu_synth.sources import Source, find_sources
from gpu_synth.volumes import SPACING_LIMITS_MM, VolumeError, save_nifti


def prepare(
    *,
    out: str | Path,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    datalist: str | Path | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    organ_labels: tuple[int, ...] = (1,),
    tumor_labels: tuple[int, ...] = (),
    workers: int = 0,
) -> Manifest:
    """Prepare CTs with organ masks for training; a case that cannot be used is refused with a reason and the others go on.

    Args:
        out: folder to write; one run at a time.
        images: folder of NIfTI CTs, or a quoted glob.
        labels: folder of NIfTI masks, or a quoted glob; matched to the images by name (see `find_sources`).
        datalist: instead of both, a Decathlon-style dataset.json.
        spacing_mm: voxel spacing to resample to, along right, anterior, superior.
        organ_labels: values of the mask that are the organ.
        tumor_labels: values of the mask that are real tumour.
        workers: processes; each needs about 16 bytes a voxel of the larger of its CT's two grids. 0 works in this process.

    Returns:
        The manifest as written to `out`; its `refused` is empty when all went well.

    Raises:
        ValueError: an argument is out of range, or images and labels cannot be paired.
        OSError: the folder cannot be written; what was finished before is kept.
    """
    settings = _settings(spacing_mm, organ_labels, tumor_labels)
    check_workers(workers)
    sources = find_sources(images, labels, datalist)
    root = check_folder_to_write("out", out)
    root.mkdir(parents=True, exist_ok=True)
    kept = {source.name: case for source in sources if (case := _kept(source, root, settings))}
    results: dict[str, Case | str] = dict(kept)
    pending = [source for source in sources if source.name not in kept]
    if pending:  # from here on the old manifest no longer tells the truth
        (root / "manifest.json").unlink(missing_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("preparing", total=len(sources), completed=len(kept))
        for source, result in each(partial(_prepare_case, root=root, settings=settings), pending, workers):
            results[source.name] = result
            progress.update(task, advance=1, description=f"prepared {escape(source.name)}")
    ordered = [(source.name, results[source.name]) for source in sources]
    cases = tuple(result for _, result in ordered if isinstance(result, Case))
    refused = tuple((name, result) for name, result in ordered if isinstance(result, str))
    manifest = Manifest(root, settings, cases, refused)
    manifest.save()
    _print(manifest, len(kept))
    return manifest


def _prepare_case(source: Source, root: Path, settings: dict[str, Any]) -> Case | str:
    """Prepare and write one case, or say why not; writing errors, such as a full disk, are raised."""
    folder = root / source.name
    try:
        image, notes = prepare_ct(source.image, settings["spacing_mm"])
        label, label_notes = prepare_label(source, image, settings["organ_labels"], settings["tumor_labels"])
        case = describe(source, image, label.data, notes + label_notes)
    except (VolumeError, MemoryError) as error:
        for name in ("case.json", "image.nii", "label.nii"):  # of an earlier run, now untrue
            (folder / name).unlink(missing_ok=True)
        return str(error) or f"{source.image}: not enough memory"
    folder.mkdir(exist_ok=True)
    (folder / "case.json").unlink(missing_ok=True)
    save_nifti(root / case.image, image.data, image.affine)
    save_nifti(root / case.label, label.data, label.affine)
    write_json(folder / "case.json", {"key": _key(source, settings), "case": asdict(case)})
    return case


def _key(source: Source, settings: dict[str, Any]) -> dict[str, Any]:
    """What a prepared case depends on: format, settings, and its sources by place, size and time of change."""
    stats = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in source[1:] if path and path.is_file()]
    key: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, "settings": settings, "sources": stats}))
    return key


def _kept(source: Source, root: Path, settings: dict[str, Any]) -> Case | None:
    """The case as an earlier run finished it, if nothing that it depends on has changed."""
    try:
        record = json.loads((root / source.name / "case.json").read_text())
        case = Case.from_json(record["case"])
        sizes = [(root / name).stat().st_size - HEADER_BYTES for name in (case.image, case.label)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    voxels = math.prod(case.shape)
    return case if record["key"] == _key(source, settings) and sizes == [2 * voxels, voxels] else None


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


def _print(manifest: Manifest, kept: int) -> None:
    console = Console()
    table = Table("case", "voxels", "organ", "HU", "notes")
    for case in manifest.cases:
        size = "×".join(map(str, case.shape))
        hu = f"{case.organ_mean_hu:.0f} ± {case.organ_sd_hu:.0f}"
        table.add_row(escape(case.name), size, f"{case.organ_ml:.0f} ml", hu, escape("; ".join(case.warnings)))
    console.print(table)
    for name, why in manifest.refused:
        console.print(f"[red]refused[/red] {escape(name)}: {escape(why)}", soft_wrap=True)
    console.print(
        f"{len(manifest.cases)} cases in {escape(str(manifest.root))} ({kept} as before), {len(manifest.refused)} refused", soft_wrap=True
    )

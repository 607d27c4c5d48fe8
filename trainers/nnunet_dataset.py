"""`gpu-synth nnunet-dataset`: CTs and organ masks as a raw data set of nnU-Net v2 that declares the tumour, though no voxel has it."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from gpu_synth.conform import prepare_label
from gpu_synth.files import check_folder_to_write
from gpu_synth.formats import read_scan
from gpu_synth.grids import perpendicular
from gpu_synth.manifest import load_manifest, write_json
from gpu_synth.sources import Source, find_sources
from gpu_synth.volumes import AIR_HU, Volume, VolumeError, read_nifti, save_nifti, to_hu, to_ras

FOLDS = 5  # of nnU-Net's cross-validation; it needs as many cases
Read = Callable[[], tuple[Volume, Volume, list[str]]]  # image, label, and what was changed or looks odd, in words


def nnunet_dataset(
    *,
    dataset: int,
    name: str = "TumorSynth",
    data_dir: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    datalist: str | Path | None = None,
    organ_labels: tuple[int, ...] = (1,),
    tumor_labels: tuple[int, ...] = (),
    organ_names: tuple[str, ...] = (),
    tumor_names: tuple[str, ...] = (),
    series: str | None = None,
) -> int:
    """Write a raw data set for nnU-Net into $nnUNet_raw: labels 0 background, 1 organ, 2 tumour; cases that cannot be used are left out.

    Args:
        dataset: number of the data set, as in nnUNetv2_train.
        name: its name: the folder is Dataset900_TumorSynth for number 900.
        data_dir: scans from gpu-synth prepare, on their spacing.
        images: instead, a folder of NIfTI CTs or of DICOM folders, or a quoted glob; they keep their own grids.
        labels: the same for the masks, NIfTI, RTSTRUCT or DICOM-SEG; matched to the images by name.
        datalist: instead of both, a Decathlon-style dataset.json.
        organ_labels: values of NIfTI masks that are the organ.
        tumor_labels: values of them that are real tumour; such cases get no synthetic ones.
        organ_names: names of ROIs of an RTSTRUCT, or of segments of a DICOM-SEG, that are the organ, in any case.
        tumor_names: names of those that are real tumour.
        series: where a DICOM folder holds several CTs, the one to take: its number, or a part of its description.

    Returns:
        How many cases were left out.

    Raises:
        ValueError: An argument is out of range, or no case is left.
        OSError: The folder cannot be written.
        ImportError: A DICOM-SEG is to be read without highdicom.
    """
    folder = _new_folder(dataset, name)
    if (data_dir is None) == (images is None and labels is None and datalist is None):
        raise ValueError("data_dir, or images and labels, or datalist must be given, and one of them alone")
    cases: dict[str, Read]
    named: dict[str, Any] = {"organ_names": organ_names, "tumor_names": tumor_names, "series": series}
    if data_dir is not None:
        _check_prepared({"organ_labels": tuple(organ_labels) != (1,), "tumor_labels": tumor_labels, **named})
        manifest = load_manifest(data_dir)
        cases = {case.name: partial(_prepared, manifest.root / case.image, manifest.root / case.label) for case in manifest.cases}
    else:
        sources = find_sources(images, labels, datalist)
        cases = {source.name: partial(_from_files, source, organ_labels, tumor_labels, **named) for source in sources}
    places = {case: (folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "labelsTr" / f"{case}.nii.gz") for case in cases}
    _refuse_others(folder, [path for place in places.values() for path in place])
    written, refused = 0, 0
    for case, read in track(cases.items(), "writing", console=Console(stderr=True)):
        try:
            image, label, notes = read()
        except VolumeError as error:
            Console().print(f"[red]refused[/red] {escape(case)}: {escape(str(error))}", soft_wrap=True)
            refused += 1
            for path in places[case]:  # of a run that ended early
                path.unlink(missing_ok=True)
            continue
        for path, volume in zip(places[case], (image, label), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_nifti(path, volume.data, volume.affine)
        written += 1
        if notes:
            Console().print(f"{escape(case)}: {escape('; '.join(notes))}", soft_wrap=True)
    if not written:
        raise ValueError(f"cases must be at least one, got none of {refused} that can be used")
    record = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "tumor": 2},
        "numTraining": written,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", record)
    Console().print(f"{written} cases in {escape(str(folder))}, {refused} refused", soft_wrap=True)
    if written < FOLDS:
        Console().print(f"nnU-Net parts cases into {FOLDS} folds, and there are {written}: train with fold all", soft_wrap=True)
    return refused


def nnunet_folder(variable: str) -> Path:
    """One of the folders that nnU-Net's users name in their environment.

    Raises:
        ValueError: The variable is not set.
    """
    if not (path := os.environ.get(variable)):
        raise ValueError(f"{variable} must be set to a folder, got nothing; export {variable}=/path/to/{variable}")
    return Path(path)


def _new_folder(dataset: int, name: str) -> Path:
    """The data set's folder, which is made with the first case."""
    raw = nnunet_folder("nnUNet_raw")
    if not 1 <= dataset <= 999:
        raise ValueError(f"dataset must be a number from 1 to 999, got {dataset}")
    if not name or not name.replace("_", "").isalnum():
        raise ValueError(f"name must be letters, figures and _, got {name!r}")
    folder = raw / f"Dataset{dataset:03d}_{name}"
    others = [other.name for other in raw.glob(f"Dataset{dataset:03d}_*") if other != folder or (other / "dataset.json").exists()]
    if others:
        raise ValueError(
            f"dataset must be a number not yet in use in {raw}, got {dataset}, which is {others[0]}; choose another or remove it"
        )
    return check_folder_to_write("nnUNet_raw", folder)


def _refuse_others(folder: Path, paths: Sequence[Path]) -> None:
    """Refuse a folder in which other files lie than this data set's: nnU-Net takes each for a case."""
    if others := sorted(set(folder.glob("*Tr/*")) - set(paths)):
        raise ValueError(f"{folder} must hold nothing but these cases, got {others[0].relative_to(folder)}; remove it")


def _prepared(image: Path, label: Path) -> tuple[Volume, Volume, list[str]]:
    """A case of `gpu-synth prepare`, which told what there was to tell."""
    return read_nifti(image), read_nifti(label), []


def _check_prepared(given: dict[str, Any]) -> None:
    """Refuse what `gpu-synth prepare` was told already."""
    if names := [name for name, value in given.items() if value]:
        raise ValueError(f"{names[0]} must be left out where data_dir is given, got both; gpu-synth prepare has read the masks by it")


def _from_files(
    source: Source, organ_labels: Sequence[int], tumor_labels: Sequence[int], *, series: str | None, **names: Sequence[str]
) -> tuple[Volume, Volume, list[str]]:
    """A CT on its own grid, turned to RAS, and its mask on the same."""
    scan, read_notes = read_scan(source.image, series)
    hu, notes = to_hu(source.image, scan)
    image, tilt = perpendicular(to_ras(hu), AIR_HU)
    label, label_notes = prepare_label(source, image, organ_labels, tumor_labels, series=series, **names)
    return image, label, read_notes + notes + tilt + label_notes

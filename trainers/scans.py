"""Whole scans: prepared ones to validate and test on, and CT files to segment, as they come from a scanner."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from gpu_synth.conform import prepare_ct
from gpu_synth.manifest import Case, Manifest, read_patch
from gpu_synth.sources import find_files, stem
from gpu_synth.trainers.patches import Sample

HELD_OUT_UID = 1 << 62  # held-out scans' uids begin here: no training run counts so far


class HeldOutDataset(Dataset[Sample]):
    """Whole scans, or whole organs with a margin, under uids that never change.

    Args:
        manifest: Prepared data.
        cases: The held-out cases.
        margin_mm: What is kept around the organ; None: the whole scan.
    """

    def __init__(self, manifest: Manifest, cases: Sequence[Case], margin_mm: float | None) -> None:
        self.manifest, self.cases, self.margin_mm = manifest, cases, margin_mm

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> Sample:
        """Read a case, as `PatchDataset` does; and whether it is `repeated`, see `ScanSampler`."""
        repeated, case = number >= len(self.cases), self.cases[number := number % len(self.cases)]
        start, end = [0, 0, 0], list(case.shape)
        if self.margin_mm is not None:
            margin = [round(self.margin_mm / spacing) for spacing in case.spacing_mm]
            start = [max(0, first - m) for first, m in zip(case.organ_bbox_vox[0], margin, strict=True)]
            end = [min(n, last + m) for last, m, n in zip(case.organ_bbox_vox[1], margin, case.shape, strict=True)]
        size = [b - a for a, b in zip(start, end, strict=True)]
        image, label = read_patch(self.manifest, case, start, size)
        uid = torch.tensor(HELD_OUT_UID + number, dtype=torch.int64)
        return {"image": image, "label": label, "spacing_mm": case.spacing_mm, "uid": uid, "repeated": repeated}


class ScanDataset(Dataset[dict[str, Any]]):
    """CT files to segment, on the spacing that the network was trained on.

    Args:
        scans: Names, and NIfTI files or DICOM folders.
        spacing_mm: That spacing.
    """

    def __init__(self, scans: Sequence[tuple[str, Path]], spacing_mm: Sequence[float]) -> None:
        self.scans, self.spacing_mm = scans, spacing_mm

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Read a scan: `image` int16 HU `(1, i, j, k)`, `spacing_mm`, `affine`, `name`, `path`."""
        name, path = self.scans[number]
        volume, _ = prepare_ct(path, self.spacing_mm)
        image = torch.from_numpy(volume.data)[None].contiguous()
        return {"image": image, "spacing_mm": volume.spacing_mm, "affine": volume.affine, "name": name, "path": str(path)}


def find_scans(places: Sequence[str]) -> list[tuple[str, Path]]:
    """Find CT files, and the names that their predictions get.

    Args:
        places: Folders, files or patterns. Names are the files', without their endings; where these are alike, as with one folder a case,
            what a pattern's wildcards stand for.

    Raises:
        ValueError: There is none, or two would get one name.
    """
    scans = [scan for place in places for scan in find_files("predict_images", place)]
    stems = [(stem(path), path) for _, path in scans]
    scans = stems if len(dict(stems)) == len(stems) else scans
    twice = [name for name, n in Counter(name for name, _ in scans).items() if n > 1]
    if twice or not scans:
        raise ValueError(
            f"predict_images must name CT files, and none of them alike, got {', '.join(twice) or 'none'}; give a folder, or a quoted "
            "pattern whose wildcards tell the scans apart: '/data/*/ct.nii.gz'"
        )
    return scans

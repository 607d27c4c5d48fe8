"""Small made-up CTs and masks as NIfTI files, in any orientation, and the folder of real ones."""

import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

CENTRE_MM = np.array([20.0, -35.0, 150.0])  # of the organ, in patient space
RADII_MM = np.array([18.0, 12.0, 22.0])
SPACING_MM = (1.4, 1.1, 3.0)
SHAPE = (41, 37, 23)
ORIGIN_MM = CENTRE_MM - [30.0, 15.0, 40.0]  # off centre on every axis, so that a flip shows

ORIENTATIONS = ["".join(axes) for p in itertools.permutations(("LR", "PA", "IS")) for axes in itertools.product(*p)]  # all 48


def affine(spacing_mm=SPACING_MM, origin_mm=ORIGIN_MM):
    return nib.affines.from_matvec(np.diag(spacing_mm), origin_mm)


def positions_mm(shape=SHAPE, at=None):
    """Patient coordinates (i, j, k, 3) of every voxel's centre."""
    return nib.affines.apply_affine(affine() if at is None else at, np.moveaxis(np.indices(shape), 0, -1))


def organ(shape=SHAPE, at=None):
    """uint8 mask of an ellipsoid in patient space."""
    return (((positions_mm(shape, at) - CENTRE_MM) / RADII_MM) ** 2).sum(-1).__lt__(1).astype(np.uint8)


def ct(shape=SHAPE, at=None):
    """HU that tell where they are: a slope along each axis of patient space, 60 at the organ's centre, and a block of air."""
    hu = 60 + (positions_mm(shape, at) - CENTRE_MM) @ [1.0, -2.0, 0.5]
    hu[:2] = -1000
    return np.rint(hu).astype(np.int16)


def write(path: Path, data, at=None, orientation="RAS") -> Path:
    """Save RAS data as a file whose axes run as `orientation` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine() if at is None else at, dtype=data.dtype)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation))
    nib.save(image.as_reoriented(turn), path)
    return path


def write_case(folder: Path, name="a", **how) -> None:
    """Write a CT and its mask under one name into images/ and labels/."""
    write(folder / "images" / f"{name}.nii.gz", ct(), **how)
    write(folder / "labels" / f"{name}.nii.gz", organ(), **how)


def real_ct() -> Path:
    """Folder of the real CTs; the test skips without it."""
    folder = Path(os.environ.get("GPU_SYNTH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real CT: {folder} does not exist; set GPU_SYNTH_TEST_DATA")
    return folder

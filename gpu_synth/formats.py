"""What a path may be: a NIfTI file, a DICOM file, or a folder that holds a DICOM series; read alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpu_synth.dicom.files import holds_dicom
from gpu_synth.dicom.masks import read_mask
from gpu_synth.dicom.series import Series, choose_series, find_series, read_series, read_series_grid
from gpu_synth.volumes import Volume, read_grid, read_nifti


def is_dicom(path: Path) -> bool:
    """Whether a path is read as DICOM: a folder, or a file with such an ending or mark."""
    return path.is_dir() or (path.is_file() and holds_dicom(path))


def read_scan(path: str | Path, series: str | None = None) -> tuple[Volume, list[str]]:
    """Read a CT in its own orientation.

    Args:
        path: NIfTI file, DICOM folder or multi-frame DICOM file.
        series: which series of a DICOM folder, as for `read_series`.

    Returns:
        The volume, and what is odd, in words.

    Raises:
        VolumeError: it cannot be used.
    """
    return read_series(path, series) if is_dicom(Path(path)) else (read_nifti(path), [])


def scan_grid(path: str | Path, series: str | None = None) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Read a CT's shape (i, j, k) and affine and none of its voxels: as `read_scan`."""
    return read_series_grid(_series(path, series)) if is_dicom(Path(path)) else read_grid(path)


def read_dicom_mask(
    path: Path, image: Path, organ_names: Sequence[str], tumor_names: Sequence[str], series: str | None = None
) -> tuple[Volume, list[str]]:
    """Read an RTSTRUCT or DICOM-SEG on the grid of its CT, which may be of any format.

    Args:
        path: its file or folder.
        image: the CT.
        organ_names: as for `read_mask`.
        tumor_names: as for `read_mask`.
        series: which series of a DICOM folder is the CT.

    Returns:
        0 background, 1 organ, 2 tumour; and what is odd, in words.

    Raises:
        VolumeError: one of the two cannot be used.
    """
    scan = _series(image, series) if is_dicom(image) else None
    shape, affine = read_series_grid(scan) if scan else read_grid(image)
    return read_mask(path, organ_names, tumor_names, shape, affine, scan)


def _series(path: str | Path, series: str | None) -> Series:
    return choose_series(path, find_series(path), series)

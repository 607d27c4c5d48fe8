"""CT and masks as NIfTI files: reading, orientation, Hounsfield units, writing, and what makes a file unusable.

Arrays are (i, j, k). An affine takes a voxel to patient millimetres, RAS: first axis towards right, then anterior, then superior.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from gpu_synth.files import whole_file

AIR_HU, TOP_HU = -1024, 3071  # the 12 bits of a CT; scanners write less outside their field of view, metal shows as more
SPACING_LIMITS_MM = (0.05, 30.0)
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, OverflowError, ImageFileError, HeaderDataError)


class VolumeError(ValueError):
    """A file that cannot be used; the message begins with its path."""


@dataclass(frozen=True)
class Volume:
    """Voxels and where they lie.

    Attributes:
        data: (i, j, k) array.
        affine: (4, 4) float64, voxel to RAS millimetres.
        placed: False where the file says nothing of position and orientation, so that the affine is a guess.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    placed: bool = True

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along i, j and k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres, right for oblique and sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_nifti(path: str | Path, scaled: bool = True) -> Volume:
    """Read one scalar 3-D volume in the file's own orientation and dtype, or refuse it.

    Args:
        path: a `.nii` or `.nii.gz` file. Trailing axes of length one are dropped; scaled files come as floating point.
        scaled: False for a scaled file's numbers as they are stored.

    Returns:
        The volume as it lies in the file.

    Raises:
        VolumeError: the file is missing, damaged or cut short, no NIfTI, not scalar, not 3-D, or its affine or spacing make no sense.
    """
    path = Path(path)
    header = _open(path)
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path) as stream:
                data = _values(type(header).from_stream(stream).dataobj, scaled)
                while stream.read(1 << 22):  # on to the end: only there does gzip check what it has read
                    pass
        else:
            data = _values(header.dataobj, scaled)
    except _UNREADABLE as error:
        raise VolumeError(f"{path}: cannot be read to its end ({error}); the file is damaged or incomplete, copy it again") from error
    placed = bool(header.header["sform_code"] > 0 or header.header["qform_code"] > 0)
    return Volume(data.reshape(_shape(path, header)), _affine(path, header), placed)


def _values(voxels: Any, scaled: bool) -> NDArray[Any]:
    """The voxels as stored where the header does not scale them, else as float32."""
    plain = not scaled or (voxels.slope == 1 and voxels.inter == 0)
    data: NDArray[Any] = voxels.get_unscaled() if plain else np.asarray(voxels, np.float32)
    return data


def read_grid(path: str | Path) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Read a file's shape (i, j, k) and affine and none of its voxels.

    Raises:
        VolumeError: as for `read_nifti`, as far as a header tells.
    """
    header = _open(Path(path))
    return _shape(Path(path), header), _affine(Path(path), header)


def _open(path: Path) -> Any:
    """The file's header as nibabel's image, its voxels not yet read."""
    if path.is_dir():
        raise VolumeError(f"{path}: must be a .nii or .nii.gz file, got a folder")
    if not path.is_file():
        raise VolumeError(f"{path}: no such file")
    try:
        image = nib.load(path, mmap=False)  # a mapped file that someone shortens meanwhile would end the process
    except _UNREADABLE as error:
        raise VolumeError(f"{path}: is no readable NIfTI file ({error})") from error
    if not isinstance(image, nib.Nifti1Image):
        raise VolumeError(f"{path}: must be a .nii or .nii.gz file, got {type(image).__name__}")
    if image.get_data_dtype().kind not in "iuf":
        raise VolumeError(f"{path}: must hold one number a voxel, got {image.get_data_dtype()}; save it as int16, it may be RGB or complex")
    return image


def _shape(path: Path, image: Any) -> tuple[int, ...]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 0 in shape:
        raise VolumeError(f"{path}: must hold one volume (i, j, k), got shape {shape}; save the one channel or time point that is meant")
    return shape


def _affine(path: Path, image: Any) -> NDArray[np.float64]:
    affine = np.array(image.affine, dtype=np.float64)
    least, most = SPACING_LIMITS_MM
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (spacing >= least).all() and (spacing <= most).all()):
        raise VolumeError(f"{path}: voxel spacing must lie within {least} to {most} mm, got {spacing.tolist()}; mend the header's affine")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.5:
        raise VolumeError(f"{path}: the affine's axes must be three directions, got {affine[:3, :3].tolist()}; mend the header")
    return affine


def to_ras(volume: Volume) -> Volume:
    """Flip and permute axes until each points as closely as it can to right, anterior, superior; no voxel value changes."""
    orientation = nib.io_orientation(volume.affine)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.data.shape)
    return Volume(nib.apply_orientation(volume.data, orientation), affine, volume.placed)


def to_hu(path: str | Path, volume: Volume) -> tuple[Volume, list[str]]:
    """Turn what a CT file holds into int16 HU within −1024 to 3071; NaN and padding become air.

    Args:
        path: the file, for messages.
        volume: its content, any number type.

    Returns:
        The int16 volume, and what was changed in words.

    Raises:
        VolumeError: the values span less than 300 HU, so that they are no HU.
    """
    hu = np.empty(volume.data.shape, np.int16, order="F")
    nans = padding = 0
    for k in range(volume.data.shape[2]):  # a slice at a time keeps the temporary arrays small
        plane = volume.data[..., k].astype(np.float32)
        nans += int(np.count_nonzero(np.isnan(plane)))
        padding += int(np.count_nonzero(plane < AIR_HU))
        hu[..., k] = np.rint(np.clip(np.nan_to_num(plane, nan=AIR_HU), AIR_HU, TOP_HU))
    least, most = int(hu.min()), int(hu.max())
    if most - least < 300:
        raise VolumeError(f"{path}: must be a CT in HU, got values from {least} to {most}; convert it from its normalised or windowed form")
    notes = [f"{nans} NaN voxels set to {AIR_HU} HU"] if nans else []
    if padding > hu.size / 1000:  # fewer are noise in air
        notes.append(f"padding under {AIR_HU} HU set to {AIR_HU} in {100 * padding / hu.size:.1f} % of the voxels")
    if not volume.placed:
        notes.append("the header gives no orientation (sform and qform codes are 0): the NIfTI default, left-anterior-superior, is assumed")
    return Volume(hu, volume.affine, volume.placed), notes


def save_nifti(path: str | Path, data: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write an array as NIfTI, as a whole or not at all.

    Args:
        path: `.nii` (can be memory-mapped) or `.nii.gz`.
        data: (i, j, k); its dtype is kept, bool becomes uint8.
        affine: (4, 4), voxel to RAS millimetres.

    Raises:
        ValueError: the name ends otherwise.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"path must end in .nii or .nii.gz, got {path}")
    data = data.astype(np.uint8) if data.dtype == bool else data
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    with whole_file(path) as stream:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=4, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(stream)

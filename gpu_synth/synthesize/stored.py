"""NIfTI files as they are stored: header to the byte and numbers before scaling, so that what is not meant to change does not.

HU are slope · number + inter. Written back, header, slope and inter are those that were read; a number that nobody changed keeps its bits.
"""

import gzip
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu_synth.files import whole_file
from gpu_synth.volumes import Volume, VolumeError, read_nifti

COMPRESSION = 4  # of gzip: 9 takes four times as long for 2 % less


@dataclass(frozen=True)
class Stored:
    """A file's header and numbers.

    Attributes:
        path: The file.
        header: nibabel's, with extensions, as the file has it.
        numbers: (i, j, k) in the file's own order and dtype, i the fastest, unscaled.
        slope: What a number is multiplied by.
        inter: What is added then.
        affine: (4, 4), voxel to RAS millimetres.
        placed: False where the file says nothing of position and orientation.
    """

    path: Path
    header: Any
    numbers: NDArray[Any]
    slope: float
    inter: float
    affine: NDArray[np.float64]
    placed: bool

    @property
    def volume(self) -> Volume:
        """Its unscaled numbers and where they lie."""
        return Volume(self.numbers, self.affine, self.placed)

    @property
    def axes(self) -> str:
        """Where the file's axes point, such as LPS."""
        return "".join(nib.aff2axcodes(self.affine))

    def scaled(self, part: NDArray[Any]) -> NDArray[np.float32]:
        """What some of the numbers mean."""
        if self.slope == 1 and self.inter == 0:
            return part.astype(np.float32)
        return (part.astype(np.float64) * self.slope + self.inter).astype(np.float32)

    def changed(self, part: NDArray[Any], before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[Any]:
        """Add to some of the numbers what has changed of what they mean, rounded and kept within the dtype where they are integers.

        Args:
            part: Numbers.
            before: What they mean, see `scaled`.
            after: What they shall mean.
        """
        moved = (before != after) & ~(np.isnan(before) & np.isnan(after))
        new = part[moved].astype(np.float64) + (after[moved].astype(np.float64) - before[moved]) / self.slope
        if np.issubdtype(part.dtype, np.integer):
            limits = np.iinfo(part.dtype)
            new = np.clip(np.rint(new), limits.min, limits.max)
        out = part.copy()
        out[moved] = new.astype(part.dtype)
        return out

    def number_of(self, value: int, name: str) -> Any:
        """The number that stands for a label's value.

        Raises:
            VolumeError: None does, in the file's dtype and scaling.
        """
        number = (value - self.inter) / self.slope
        dtype, whole = self.numbers.dtype, number == round(number)
        if np.issubdtype(dtype, np.integer) and not (whole and np.iinfo(dtype).min <= number <= np.iinfo(dtype).max):
            raise VolumeError(f"{self.path}: must be able to hold {name} {value}, got {dtype}; choose another, or save it as int16")
        return dtype.type(number)


def read_stored(path: str | Path) -> Stored:
    """Read a file as it is stored.

    Raises:
        VolumeError: As `read_nifti`.
    """
    path = Path(path)
    volume = read_nifti(path, scaled=False)
    image = nib.load(path, mmap=False)
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
        header = image.header_class.from_fileobj(stream, check=False)  # unlike the image's own, with slope and inter
    voxels = image.dataobj
    return Stored(path, header, volume.data, float(voxels.slope), float(voxels.inter), volume.affine, volume.placed)


def header_for(header: Any, dtype: DTypeLike) -> Any:
    """A copy of a header for other numbers on its grid: unscaled, without limits of display."""
    new = deepcopy(header)
    new.set_data_dtype(np.dtype(dtype))
    for name, value in {"scl_slope": 1.0, "scl_inter": 0.0, "cal_min": 0.0, "cal_max": 0.0}.items():
        new[name] = value
    return new


def write_stored(path: str | Path, header: Any, numbers: NDArray[Any]) -> None:
    """Write numbers under a header, as `.nii.gz`, as a whole or not at all; the same numbers give the same bytes, whenever it is.

    Args:
        path: The file.
        header: nibabel's.
        numbers: Of the header's shape but for axes of one, and of its dtype.
    """
    head = deepcopy(header)
    head["vox_offset"] = 0  # right behind the header and its extensions
    flat = np.ascontiguousarray(numbers.ravel(order="F"), dtype=header.get_data_dtype())
    with whole_file(path) as stream, gzip.GzipFile("", "wb", COMPRESSION, stream, mtime=0) as packed:
        head.write_to(packed)
        packed.write(b"\0" * (int(head["vox_offset"]) - packed.tell()))
        packed.write(flat.view(np.uint8).data)

"""What `gpu-synth prepare` leaves on disk, and how training reads it: whole cases or patches, memory-mapped.

A folder holds `manifest.json`, `sheet.png`, and one folder a case: `image.nii` (int16 HU), `label.nii` (uint8: 0 background, 1 organ, 2
tumour), both RAS on one grid, `picture.png` and `case.json`. Uncompressed NIfTI because it can be memory-mapped, keeps the affine, and
opens in any viewer.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Int16, UInt8
from numpy.typing import NDArray
from torch import Tensor

from gpu_synth.files import whole_file
from gpu_synth.volumes import AIR_HU

FORMAT = 2
MOST_OPEN = 256  # files that stay mapped, each with a descriptor, of which a process commonly has 1024
HEADER_BYTES = 352  # of an uncompressed NIfTI file without extensions


@dataclass(frozen=True)
class Case:
    """One prepared scan; 3-vectors follow i, j, k.

    Attributes:
        name: unique in its manifest, and the name of its folder.
        image: int16 HU, relative to the manifest's folder.
        label: uint8 label, relative to the manifest's folder.
        source_image: the CT file or DICOM folder that it was made from.
        source_label: the mask file or DICOM folder that it was made from.
        image_sha256: of the content of the one, whatever its name.
        label_sha256: of the other.
        shape: voxels.
        spacing_mm: distance between voxel centres.
        organ_ml: volume of the organ, a tumour within it included.
        tumor_ml: volume of the tumour.
        organ_bbox_vox: first voxel and one past the last voxel that holds organ.
        organ_mean_hu: mean over the organ without tumour.
        organ_sd_hu: standard deviation over the same.
        noise_hu: SD of the noise in the organ, on this grid, as `tissue` measures it; 0 where the organ is too thin to tell.
        contrast: whether the organ is enhanced: it shows vessels, as `tissue` finds them, or its median is 80 HU or more.
        components: pieces of the organ, 26-neighbourhood.
        fits_only: how the mask would have to be flipped or turned, in words, where only so it lies on an organ; else empty.
        warnings: what was changed or looks odd, in words.
    """

    name: str
    image: str
    label: str
    source_image: str
    source_label: str
    image_sha256: str
    label_sha256: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    organ_ml: float
    tumor_ml: float
    organ_bbox_vox: tuple[tuple[int, int, int], tuple[int, int, int]]
    organ_mean_hu: float
    organ_sd_hu: float
    noise_hu: float
    contrast: bool
    components: int
    fits_only: str
    warnings: tuple[str, ...]

    @property
    def picture(self) -> str:
        """Two slices of it, relative to the manifest's folder."""
        return f"{self.name}/picture.png"

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Case":
        """Build a case from its JSON object, whose lists become tuples."""
        return cls(**{key: _frozen(value) for key, value in record.items()})


@dataclass(frozen=True)
class Manifest:
    """A prepared data set.

    Attributes:
        root: its folder.
        settings: what it was prepared with: spacing_mm, organ_labels, tumor_labels; organ_names, tumor_names and series where given;
            of a data set by name dataset and organ.
        cases: the prepared scans.
        refused: name and reason of each scan that could not be used.
        odd: name and findings of each prepared scan that looks odd.
    """

    root: Path
    settings: dict[str, Any]
    cases: tuple[Case, ...]
    refused: tuple[tuple[str, str], ...] = ()
    odd: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def case(self, which: int | str | Case) -> Case:
        """Find a case by number or name.

        Raises:
            ValueError: there is none.
        """
        if isinstance(which, Case):
            return which
        named = dict(enumerate(self.cases)) if isinstance(which, int) else {case.name: case for case in self.cases}
        if which not in named:
            raise ValueError(f"case must be one of {[case.name for case in self.cases]} or 0 to {len(self.cases) - 1}, got {which!r}")
        return named[which]  # type: ignore[index]

    def save(self) -> None:
        """Write `manifest.json` into the root, as a whole or not at all."""
        write_json(self.root / "manifest.json", self.record())

    def record(self) -> dict[str, Any]:
        """What `manifest.json` holds: JSON's own types alone."""
        cases = [asdict(case) for case in self.cases]
        record: dict[str, Any] = {"format": FORMAT, "settings": self.settings, "cases": cases, "refused": self.refused, "odd": self.odd}
        return dict(json.loads(json.dumps(record)))


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file, as a whole or not at all."""
    with whole_file(path) as stream:
        stream.write(json.dumps(record, indent=1).encode())


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def load_manifest(path: str | Path) -> Manifest:
    """Read what `gpu-synth prepare` wrote.

    Args:
        path: its folder, or the `manifest.json` in it.

    Raises:
        ValueError: there is no manifest (none was written, or the preparation was interrupted), or one of another format.
    """
    path = Path(path)
    path = path if path.name == "manifest.json" else path / "manifest.json"
    if not path.is_file():
        raise ValueError(
            f"prepared data must be a folder with manifest.json, got {path.parent}; run gpu-synth prepare --out {path.parent} to its end"
        )
    try:
        record = json.loads(path.read_text())
        if record["format"] != FORMAT:
            raise ValueError(f"manifest must be of format {FORMAT}, got {record['format']} in {path}; run gpu-synth prepare again")
        cases = tuple(Case.from_json(case) for case in record["cases"])
        return Manifest(path.parent, record["settings"], cases, _frozen(record["refused"]), _frozen(record["odd"]))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"manifest must be what gpu-synth prepare writes, got {path} ({error!r}); run it again") from error


def load_case(
    manifest: Manifest, which: int | str | Case
) -> tuple[Int16[Tensor, "1 i j k"], UInt8[Tensor, "1 i j k"], tuple[float, float, float]]:
    """Read one prepared scan as a whole.

    Args:
        manifest: from `load_manifest`.
        which: number, name, or the case itself.

    Returns:
        Image in HU, label (0 background, 1 organ, 2 tumour), spacing in mm; RAS.

    Raises:
        ValueError: there is no such case, or its files are not those that the manifest tells of.
    """
    case = manifest.case(which)
    image, label = read_patch(manifest, case, (0, 0, 0), case.shape)
    return image, label, case.spacing_mm


def read_patch(
    manifest: Manifest, which: int | str | Case, start_vox: Sequence[int], size_vox: Sequence[int]
) -> tuple[Int16[Tensor, "1 i j k"], UInt8[Tensor, "1 i j k"]]:
    """Read a box of one prepared scan; only the pages of the files that hold it are touched.

    Args:
        manifest: from `load_manifest`.
        which: number, name, or the case itself.
        start_vox: first voxel; the box may reach over the scan's border on any side.
        size_vox: voxels of the box.

    Returns:
        Image in HU and label; −1024 HU and 0 where the box lies outside the scan.

    Raises:
        ValueError: there is no such case, or its files are not those that the manifest tells of.
    """
    case = manifest.case(which)
    return _box(map_image(manifest, case), start_vox, size_vox, AIR_HU), _box(map_label(manifest, case), start_vox, size_vox, 0)


def map_label(manifest: Manifest, which: int | str | Case) -> NDArray[np.uint8]:
    """Map one prepared scan's label `(i, j, k)` into memory, i the fastest: nothing is read before it is looked at.

    Raises:
        ValueError: there is no such case, or its file is not the one that the manifest tells of.
    """
    case = manifest.case(which)
    return _mapped(manifest.root / case.label, case, np.uint8)


def map_image(manifest: Manifest, which: int | str | Case) -> NDArray[np.int16]:
    """Map one prepared scan's HU: as `map_label`."""
    case = manifest.case(which)
    return _mapped(manifest.root / case.image, case, np.int16)


def _mapped(path: Path, case: Case, dtype: type[np.generic]) -> NDArray[Any]:
    """The file's voxels, mapped into memory."""
    try:
        voxels = _opened(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be the file that gpu-synth prepare wrote ({error}); run it again") from error
    if voxels.shape != case.shape or voxels.dtype != dtype:
        raise ValueError(
            f"{path} must hold {case.shape} {np.dtype(dtype)} as its manifest says, got {voxels.shape} {voxels.dtype}; prepare it again"
        )
    return voxels


@lru_cache(maxsize=MOST_OPEN)
def _opened(path: Path, changed_ns: int) -> NDArray[Any]:
    """A file's voxels, mapped: kept, because a fresh mapping costs a page fault for every page that a patch touches."""
    return np.asarray(nib.load(path).dataobj.get_unscaled())


def _box(voxels: NDArray[Any], start: Sequence[int], size: Sequence[int], outside: int) -> Tensor:
    """Copy a box out of a volume, filling what lies outside it."""
    box = np.full(tuple(size), outside, voxels.dtype)
    ends = [(max(0, s), min(length, s + n)) for s, n, length in zip(start, size, voxels.shape, strict=True)]
    if all(first < last for first, last in ends):
        inside = tuple(slice(first - s, last - s) for (first, last), s in zip(ends, start, strict=True))
        box[inside] = voxels[tuple(slice(first, last) for first, last in ends)]
    return torch.from_numpy(box)[None]

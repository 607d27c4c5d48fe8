"""CT as DICOM: which series a folder holds, and a series as one volume in HU.

Voxels are (i, j, k): i along a row, j down a column, k from slice to slice along the normal of i and j. That is the order of SimpleITK and
GDCM, and for the usual axial scan means left, posterior, superior. Nothing is flipped: the affine says where a voxel lies.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.utils import iter_pixels

from gpu_synth.dicom.files import files_of
from gpu_synth.dicom.reading import reading
from gpu_synth.dicom.slices import Header, Slice, check_alike, check_decoder, doubles, grid_of, in_order, read_header
from gpu_synth.volumes import AIR_HU, TOP_HU, Volume, VolumeError


@dataclass(frozen=True)
class Series:
    """Files that belong together.

    Attributes:
        uid: SeriesInstanceUID.
        description: SeriesDescription, or empty.
        number: SeriesNumber, or empty.
        modality: CT, MR, SEG, RTSTRUCT and so on.
        localizer: whether it holds survey images.
        headers: what the files say, in order of name.
        slices: the images of a CT, ordered along their normal; none where it is no CT.
    """

    uid: str
    description: str
    number: str
    modality: str
    localizer: bool
    headers: tuple[Header, ...]
    slices: tuple[Slice, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, in order of slices."""
        return tuple(dict.fromkeys(s.path for s in self.slices)) or tuple(header.path for header in self.headers)

    @property
    def frame_of_reference(self) -> str:
        """What its millimetres are counted from, or empty."""
        return self.headers[0].text("FrameOfReferenceUID")

    @property
    def where(self) -> str:
        """The folder, or the only file, and the series in it, for messages."""
        path = self.files[0].parent if len(self.files) > 1 else self.files[0]
        return f"{path}: series {self}"

    def __str__(self) -> str:
        what = "localizer" if self.localizer else self.modality or "no modality"
        images = len(self.slices) or len(self.headers)
        return f"{self.description or 'without description'!r} ({what}, {images} images, {self.uid})"


def find_series(folder: str | Path) -> list[Series]:
    """Find the DICOM series of a folder and of its subfolders; only headers are read.

    Survey images make a series of their own, even where they share another's identifier. What is no DICOM is passed over.

    Args:
        folder: the folder, or one file.

    Returns:
        The series, CT first, those of most images first.

    Raises:
        VolumeError: there is no such folder, or a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.exists():
        raise VolumeError(f"{folder}: no such file or folder")
    groups: dict[tuple[str, bool], list[Header]] = defaultdict(list)
    for path in files_of(folder):
        if (header := read_header(path)) is not None:
            groups[header.text("SeriesInstanceUID"), header.is_localizer].append(header)
    found = [_series(headers) for headers in groups.values()]
    return sorted(found, key=lambda series: (series.modality != "CT", series.localizer, -len(series.slices), series.number, series.uid))


def _series(headers: Sequence[Header]) -> Series:
    uid, description, number, modality = (
        headers[0].text(keyword) for keyword in ("SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality")
    )
    slices = in_order([s for header in headers for s in header.slices])
    return Series(uid, description, number, modality, headers[0].is_localizer, tuple(headers), tuple(slices))


def read_series(source: Series | str | Path, choose: str | None = None) -> tuple[Volume, list[str]]:
    """Read a CT series as one volume of HU, or refuse it.

    Args:
        source: a series, a folder that holds one, or one multi-frame file.
        choose: where a folder holds several, which: its identifier, its number, or a part of its description that no other has.

    Returns:
        The volume in the order of its slices, int16 or int32, or float32 where the rescale slope is a fraction; and what is odd, in words.
        A tilted gantry makes a sheared affine.

    Raises:
        VolumeError: there is no CT or more than one, it is damaged or compressed as nothing here can decode, or its slices make no volume.
    """
    series = source if isinstance(source, Series) else choose_series(source, find_series(source), choose)
    _check_stack(series)
    for header in series.headers:
        check_decoder(header)
    pairs = doubles(series.slices)
    _check_copies(series, pairs)
    slices = _once(series, pairs)
    affine, notes = grid_of(series.where, slices)
    if pairs:
        notes.append(f"{len(pairs)} slices are there twice, and alike: one of each is taken")
    data, changed = _voxels(series, slices)
    return Volume(data, affine), [*notes, *changed]


def read_series_grid(series: Series) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Find a series' shape (i, j, k) and affine, without its voxels.

    Raises:
        VolumeError: as for `read_series`, as far as headers tell.
    """
    _check_stack(series)
    slices = _once(series, doubles(series.slices))
    affine, _ = grid_of(series.where, slices)
    return (*slices[0].shape, len(slices)), affine


def _check_stack(series: Series) -> None:
    if series.modality != "CT":
        raise VolumeError(f"{series.where}: must be a CT, got {series.modality or 'no modality'}; choose another series")
    check_alike(series.where, series.slices)


def choose_series(folder: str | Path, found: Sequence[Series], choose: str | None = None) -> Series:
    """Pick the CT series that is meant.

    Args:
        folder: where they were found, for messages.
        found: from `find_series`.
        choose: as for `read_series`.

    Raises:
        VolumeError: none is left, or several.
    """
    scans = [series for series in found if series.modality == "CT" and not series.localizer]
    listed = "".join(f"\n  {series}" for series in found)
    if not scans:
        raise VolumeError(f"{folder}: must hold a CT series, got {listed or 'no DICOM file'}; give the folder of one, or a NIfTI file")
    if choose is not None:
        exact = [series for series in scans if choose in (series.uid, series.number)]
        fitting = exact or [series for series in scans if choose.lower() in series.description.lower()]
        if len(fitting) != 1:
            raise VolumeError(f"{folder}: series must be that of one CT, got {choose!r}, which fits {len(fitting)} of:{listed}")
        return fitting[0]
    stacks = [series for series in scans if len(series.slices) > 1 and all(s.place for s in series.slices)] or scans
    if len(stacks) > 1:
        raise VolumeError(
            f"{folder}: must hold one CT series, got {len(stacks)}; give its own folder, or to gpu-synth prepare name one by --series "
            f"(its number, identifier or a part of its description):{listed}"
        )
    return stacks[0]


def _check_copies(series: Series, pairs: Sequence[tuple[Slice, Slice]]) -> None:
    """Refuse different slices in one place."""
    for a, b in pairs:
        one, other = (next(_pixels(s.path, [s.frame])) for s in (a, b))
        if a.rescale != b.rescale or not np.array_equal(one, other):
            raise VolumeError(
                f"{series.where}: must hold each slice once, got {len(pairs)} twice, the first {a.path.name} and {b.path.name}, "
                "which differ: it may hold two scans or phases; put each into a folder of its own"
            )


def _once(series: Series, pairs: Sequence[tuple[Slice, Slice]]) -> list[Slice]:
    copies = {(b.path, b.frame) for _, b in pairs}
    return [s for s in series.slices if (s.path, s.frame) not in copies]


def _voxels(series: Series, slices: Sequence[Slice]) -> tuple[NDArray[Any], list[str]]:
    """All voxels in HU, and what was changed."""
    columns, rows = slices[0].shape
    data = np.empty((columns, rows, len(slices)), _dtype(series, slices), order="F")
    headers = {header.path: header.dataset for header in series.headers}
    frames: dict[Path, list[tuple[int, Slice]]] = defaultdict(list)
    for k, s in enumerate(slices):
        frames[s.path].append((k, s))
    padded = 0
    for path, several in frames.items():
        padding = headers[path].get("PixelPaddingValue")
        pixels = _pixels(path, [s.frame for _, s in several])
        for (k, s), stored in zip(several, pixels, strict=True):
            if stored.shape != (rows, columns):
                raise VolumeError(f"{path}: must hold one number a pixel, {rows} rows of {columns}, got an array {stored.shape}")
            slope, intercept = s.rescale or (1.0, 0.0)
            number = float if data.dtype == np.float32 else int  # whole numbers stay exact
            data[..., k] = (stored.astype(number) * number(slope) + number(intercept)).T
            if padding is not None and slope * padding + intercept > TOP_HU:
                padded += int(np.count_nonzero(stored == padding))
                data[..., k][(stored == padding).T] = AIR_HU
    notes = [f"{padded} voxels of padding set to {AIR_HU} HU"] if padded else []
    if any(s.rescale is None for s in slices):
        notes.append("the headers give no rescale slope and intercept: stored values are taken as HU")
    return data, notes


def _dtype(series: Series, slices: Sequence[Slice]) -> type[np.generic]:
    """The smallest of int16, int32 and float32 that holds all HU that the headers allow."""
    rescale = {s.rescale or (1.0, 0.0) for s in slices}
    if any(number != round(number) for pair in rescale for number in pair):
        return np.float32
    ends = []
    for header in series.headers:
        bits = int(header.dataset.get("BitsStored", 16))
        low = -(1 << (bits - 1)) if header.dataset.get("PixelRepresentation", 0) else 0
        ends += [slope * stored + intercept for stored in (low, low + (1 << bits) - 1) for slope, intercept in rescale]
    return np.int16 if -(1 << 15) <= min(ends) <= max(ends) < 1 << 15 else np.int32


def _pixels(path: Path, frames: Sequence[int]) -> Any:
    """Stored values (rows, columns) of a file's frames, one after another."""
    with reading(path, "its pixels"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths that are odd but suffice
        yield from iter_pixels(path, indices=list(frames))

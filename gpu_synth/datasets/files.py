"""Finding a data set's files by number, and reading slices that belong together by name."""

import errno
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os.path import normpath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_synth.datasets.contract import Scan
from gpu_synth.dicom.files import is_hidden
from gpu_synth.dicom.series import Series, find_series, read_series
from gpu_synth.dicom.slices import check_alike, doubles, in_order
from gpu_synth.sources import Source
from gpu_synth.volumes import Volume, VolumeError, read_nifti


def numbered(
    root: Path, pattern: str, whole: str = r"\.nii(\.gz)?", skip: Sequence[str] = (), holds: Sequence[str] = ()
) -> dict[int, Path]:
    """Find files or folders by the number in their names, at any depth; hidden ones, such as macOS leaves in archives, are none.

    Args:
        root: where to look.
        pattern: regular expression of the name up to and with the number, its first group.
        whole: regular expression of the rest of the name.
        skip: names of folders that are passed over.
        holds: names, of which a folder must hold one: folders of its own name around it are none, as some programs leave that unpack.

    Raises:
        ValueError: a number is there twice.
    """
    expression = re.compile(f"{pattern}{whole}", re.IGNORECASE)
    found: dict[int, Path] = {}
    for path in sorted(root.rglob("*")):
        match = expression.fullmatch(path.name)
        if match is None or is_hidden(path, root) or set(path.relative_to(root).parts) & set(skip):
            continue
        if holds and not any((path / name).exists() for name in holds):
            continue
        number = int(match[1])
        if number in found:
            raise ValueError(f"root must hold each case once, got {found[number]} and {path}; move one of them away")
        found[number] = path
    return found


def pair(images: dict[int, Path], masks: dict[int, Path], name: str, mask_name: str, image_name: str) -> list[Source]:
    """Pair images and masks by number; where one is not there, its place is named beside the other's.

    Args:
        images: by number.
        masks: by number.
        name: format of the case's name, of its number.
        mask_name: format of a mask's file, from an image's folder.
        image_name: format of an image's, from a mask's.
    """
    sources = []
    for number in sorted({*images, *masks}):
        image, mask = images.get(number), masks.get(number)
        beside = (image or masks[number]).parent
        expected = [Path(normpath(beside / each.format(number))) for each in (image_name, mask_name)]
        sources.append(Source(name.format(number), image or expected[0], mask or expected[1]))
    return sources


def read_niftis(source: Source) -> Scan:
    """Read an image and a mask that are NIfTI files."""
    assert source.label is not None
    return Scan(read_nifti(source.image), read_nifti(source.label), [])


def the_series(folder: Path) -> Series:
    """Find the CT of a folder that holds nothing else, be its slices of one series or, as some anonymisers leave them, of one each.

    Raises:
        VolumeError: it holds no CT, slices twice, or such as do not stack.
    """
    found = [series for series in find_series(folder) if series.modality == "CT" and not series.localizer]
    if not found:
        raise VolumeError(f"{folder}: must hold the DICOM slices of a CT, got none; download it again")
    headers = tuple(header for series in found for header in series.headers)
    series = replace(found[0], headers=headers, slices=tuple(in_order([s for one in found for s in one.slices])))
    check_alike(str(folder), series.slices)
    if twice := doubles(series.slices):
        raise VolumeError(f"{folder}: must hold each slice once, got {twice[0][0].path.name} and {twice[0][1].path.name} in one place")
    return series


def read_the_series(folder: Path) -> tuple[Volume, list[str], list[Path]]:
    """Read the CT of a folder that holds nothing else; and which file is which slice."""
    series = the_series(folder)
    volume, notes = read_series(series)
    return volume, notes, [s.path for s in series.slices]


@contextmanager
def unpacked(path: Path, wanted: str = ".*") -> Iterator[Path]:
    """Open a folder, or an archive of one, which is unpacked for as long as it is read.

    Args:
        path: a folder or a .zip file.
        wanted: regular expression of the members that are needed.

    Raises:
        VolumeError: the archive is damaged, or there is no room to unpack it.
    """
    if path.is_dir():
        yield path
        return
    with TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder, [member for member in archive.namelist() if re.fullmatch(wanted, member)])
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            mend = "make room, or name another place by TMPDIR" if full else "the archive is damaged or incomplete, download it again"
            raise VolumeError(f"{path}: cannot be unpacked ({error}); {mend}") from error
        yield Path(folder)


def by_number(paths: Sequence[Path]) -> list[Path]:
    """Sort files by the numbers in their names, as people count: image_9 before image_10."""
    return sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])


def black_and_white(what: str, pixels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """One slice's mask of a picture that is black and white.

    Args:
        what: the picture, for messages.
        pixels: (rows, columns).
        shape: (i, j) of its slice.

    Returns:
        (i, j).

    Raises:
        VolumeError: it has another size, or holds greys.
    """
    if pixels.T.shape != shape:
        got = "×".join(map(str, pixels.T.shape))
        raise VolumeError(f"{what}: must have its slice's size {shape[0]}×{shape[1]}, got {got}; download it again")
    held = np.unique(pixels).tolist()
    if len(held) > 2 or not set(held) <= {0, 1, 255}:
        raise VolumeError(f"{what}: must be black and white (0 and 255), got values {', '.join(map(str, held[:8]))}; download it again")
    return (pixels > 0).T

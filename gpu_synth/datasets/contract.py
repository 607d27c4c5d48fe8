"""What a public data set is here: where its cases lie in the folder as downloaded, how one is read, what its masks' values mean.

A data set's module says only what is its own: names, places, values. What is checked of every case is here: that its mask lies on its
image's grid, holds values that the data set has, and fits what the image shows under it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpu_synth.conform import to_classes
from gpu_synth.grids import apart_mm
from gpu_synth.mask_fit import better_arrangement
from gpu_synth.sources import Source
from gpu_synth.volumes import Volume, VolumeError

OFF_GRID_VOX = 0.5  # of a corner: headers written by two programs differ by rounding


class Scan(NamedTuple):
    """A CT and its mask, voxel for voxel.

    Attributes:
        image: HU as they are stored.
        label: what the mask holds, in the image's order of axes, with its own affine where its file has one.
        notes: what is odd, in words.
    """

    image: Volume
    label: Volume
    notes: list[str]


class Values(NamedTuple):
    """Which of a mask's values are the organ, and which a tumour in it."""

    organ: tuple[int, ...]
    tumor: tuple[int, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A public data set.

    Attributes:
        name: as `--dataset` has it.
        title: as people call it.
        page: where it is downloaded.
        layout: what its folder holds, in words, for messages.
        numbers: the cases of a whole download that have a mask, by organ; only how many, where the data set does not tell which.
        organs: values of the mask, by organ.
        values: all values that a mask may hold.
        find: the cases in a folder, for an organ.
        read: a case's image and mask.
        case_name: name of a case, of its number.
    """

    name: str
    title: str
    page: str
    layout: str
    numbers: Mapping[str, Sequence[int] | int]
    organs: Mapping[str, Values]
    values: Sequence[int]
    find: Callable[[Path, str], list[Source]]
    read: Callable[[Source], Scan]
    case_name: Callable[[int], str]


class Found(NamedTuple):
    """What a folder holds of a data set.

    Attributes:
        sources: in order of name, also those of which a file is not there.
        absent: names of cases of which nothing is there.
        summary: how many are expected and found, in words.
    """

    sources: list[Source]
    absent: list[str]
    summary: str


def find_cases(dataset: Dataset, root: str | Path, organ: str) -> Found:
    """Look through a data set's folder.

    Args:
        dataset: what it should hold.
        root: the folder as downloaded and unpacked, or one around it.
        organ: which organ's masks.

    Raises:
        ValueError: the data set has no such organ, there is no such folder, or it holds none of its cases, or one twice.
    """
    if organ not in dataset.organs:
        raise ValueError(f"organ must be one of {', '.join(dataset.organs)} for {dataset.title}, got {organ!r}")
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"root must be the folder of {dataset.title}, got {root}, which is none; {dataset.page} has it")
    sources = sorted(dataset.find(root, organ))
    if not sources:
        raise ValueError(f"root must hold {dataset.title}: {dataset.layout}, got none of it in {root}; {dataset.page} has it")
    numbers = dataset.numbers[organ]
    named = [] if isinstance(numbers, int) else [dataset.case_name(number) for number in numbers]
    absent = sorted(set(named) - {source.name for source in sources})
    lacking = [source.name for source in sources if _missing(source)]
    said = f"{dataset.title}, {organ}: {len(named) or numbers} cases expected, {len(sources) - len(lacking)} found"
    said += f", {len(lacking)} incomplete ({_few(lacking)})" if lacking else ""
    said += f"; not there: {_few(absent)}" if absent else ""
    return Found(sources, absent, said)


def read_case(dataset: Dataset, source: Source, organ: str) -> Scan:
    """Read a case, check that image and mask belong together, and map the mask's values.

    Args:
        dataset: where it is from.
        source: the case.
        organ: which organ.

    Returns:
        The image, and the label on its grid: uint8, 0 background, 1 organ, 2 tumour.

    Raises:
        VolumeError: something of it is missing or damaged, the mask has another grid, a value that the data set does not know, no organ,
            or does not fit the image as it lies but would with its axes flipped or swapped.
    """
    if missing := _missing(source):
        raise VolumeError(f"{missing}: must be there, as the rest of {source.name} is, got no such file or folder; download it again")
    image, mask, notes = dataset.read(source)
    _check_grid(source, image, mask)
    values, where = dataset.organs[organ], source.label or source.image
    label, held = to_classes(where, mask.data, values.organ, values.tumor)
    _check_values(dataset, where, held)
    if not (label == 1).any():
        raise VolumeError(f"{where}: must hold {organ} (value {_few(values.organ)}), got none; is it the right file?")
    better = better_arrangement(image, label == 1)
    if better:
        raise VolumeError(f"{source.label}: must lie on its organ in {source.image}, got a mask that fits only {better}; download it again")
    return Scan(image, Volume(label, image.affine, image.placed), notes)


def _missing(source: Source) -> Path | None:
    """What of a case is not there."""
    return next((path for path in (source.image, source.label) if path and not path.exists()), None)


def _check_grid(source: Source, image: Volume, mask: Volume) -> None:
    if mask.data.shape != image.data.shape:
        raise VolumeError(
            f"{source.label}: must have its image's grid of {_shape(image)} voxels, got {_shape(mask)}; "
            f"is it the mask of {source.image.name}?"
        )
    if not (image.placed and mask.placed):
        return
    off_mm = apart_mm(mask, image)
    if off_mm > OFF_GRID_VOX * min(image.spacing_mm):
        raise VolumeError(
            f"{source.label}: must lie where its image does, got a header that places it up to {off_mm:.1f} mm away "
            f"({_mm(mask)} against {_mm(image)} mm spacing); is it the mask of {source.image.name}?"
        )


def _check_values(dataset: Dataset, where: Path, held: Sequence[int]) -> None:
    wrong = [value for value in held if value not in dataset.values]
    if wrong:
        known = f"{min(dataset.values)} to {max(dataset.values)}" if len(dataset.values) > 3 else _few(dataset.values)
        raise VolumeError(f"{where}: must hold values {known}, as {dataset.title} has them, got {_few(wrong)} too; download it again")


def _few(things: Sequence[object]) -> str:
    return ", ".join(map(str, things[:8])) + (f" and {len(things) - 8} more" if len(things) > 8 else "")


def _shape(volume: Volume) -> str:
    return "×".join(map(str, volume.data.shape))


def _mm(volume: Volume) -> str:
    return "×".join(f"{mm:.3g}" for mm in volume.spacing_mm)

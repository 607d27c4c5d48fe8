"""Which files and folders hold DICOM."""

from contextlib import suppress
from pathlib import Path

from gpu_synth.dicom.slices import DICOM_ENDINGS, Header, read_header
from gpu_synth.volumes import VolumeError

_MARK_AT, _MARK = 128, b"DICM"


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file of a folder is one that macOS and others leave beside what they pack."""
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)


def files_of(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders but hidden ones, in order of their paths; of a file, itself."""
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path, folder))


def holds_dicom(path: Path, deep: bool = True) -> bool:
    """Whether a file is DICOM, by its ending or its mark; or whether a folder holds such a file.

    Args:
        path: file or folder.
        deep: whether a folder's subfolders count.
    """
    if path.is_file():
        return path.suffix.lower() in DICOM_ENDINGS or _is_marked(path)
    inner = path.rglob("*") if deep else path.iterdir()
    return path.is_dir() and any(item.is_file() and not is_hidden(item, path) and holds_dicom(item) for item in inner)


def _is_marked(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as stream:  # one that must not be read is said where it is read
        stream.seek(_MARK_AT)
        return stream.read(len(_MARK)) == _MARK
    return False


def in_folder(folder: Path) -> list[Path]:
    """The cases that a folder of DICOM holds, by their files and folders.

    Its subfolders that hold any are one each. Files in the folder itself are one together where the first is a slice of a CT, and else,
    masks and multi-frame files, one each.
    """
    inner = sorted(path for path in folder.iterdir() if not is_hidden(path, folder) and holds_dicom(path))
    files, folders = [path for path in inner if path.is_file()], [path for path in inner if path.is_dir()]
    first = next(filter(None, map(_readable, files)), None)
    return folders + ([folder] if first and len(first.slices) == 1 else files)


def _readable(path: Path) -> Header | None:
    """A file's header; None where it has none, as reading the case will say."""
    try:
        return read_header(path)
    except VolumeError:
        return None

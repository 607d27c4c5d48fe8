"""Files that are either there as a whole or not at all, what a file holds, whatever its name, and folders that can hold them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file that is either there as a whole or not at all: a `.partial` neighbour takes its name once it is on disk."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk does not say of which file
            error.filename = str(path)
        raise


def content_sha256(paths: Sequence[Path]) -> str:
    """Hash what files hold, together, in whatever order and under whatever names.

    Raises:
        OSError: one cannot be read.
    """
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while part := stream.read(1 << 20):
                digest.update(part)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def stamp(paths: Sequence[Path]) -> str:
    """Hash where files lie, how long they are and when they last changed: as long as it stays, so does their content.

    Raises:
        OSError: one is not there.
    """
    stats = [(path, path.stat()) for path in paths]
    known = [(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]
    return hashlib.sha256(repr(known).encode()).hexdigest()


def check_folder_to_write(name: str, folder: str | PathLike[str]) -> Path:
    """Refuse a folder that cannot be made or written into, before anything is read; nothing is made yet.

    Args:
        name: The argument, for the message.
        folder: It, there or not.

    Raises:
        ValueError: It is a file, lies in one, or must not be written.
    """
    path = Path(folder)
    known = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not known.is_dir():
        raise ValueError(f"{name} must be a folder, got {path}{'' if known == path else f' in {known}'}, which is a file; name another")
    if not os.access(known, os.W_OK | os.X_OK):
        raise ValueError(f"{name} must be a folder that can be written, got {path}, and {known} must not be; name another")
    return path

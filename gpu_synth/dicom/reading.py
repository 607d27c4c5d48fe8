"""Reading what may be damaged: of whatever pydicom stumbles over, the file is said."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import config
from pydicom.errors import BytesLengthException, InvalidDicomError

from gpu_synth.volumes import VolumeError

UNREADABLE = (  # what pydicom and its decoders raise of damaged files
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError),
    *(struct.error, InvalidDicomError, BytesLengthException),
)


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Refuse a file of which something cannot be read, whatever it is that pydicom stumbles over.

    Raises:
        VolumeError: it cannot.
    """
    try:
        with config.disable_value_validation():  # what others wrote is often not quite to the letter
            yield
    except UNREADABLE as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeError(f"{path}: {what} cannot be read ({error}); the file is damaged or incomplete, download it again") from error

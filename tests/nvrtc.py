"""The compiler that CuPy calls, without CuPy and without a GPU: NVRTC from the package nvidia-cuda-nvrtc."""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from typing import NamedTuple

PACKAGE = "nvidia-cuda-nvrtc"


class Program(NamedTuple):
    """What the compiler made of a source: whether it accepted it, its log, and PTX."""

    compiled: bool
    log: str
    ptx: str


def compile_program(text: str, name: str, options: Sequence[str]) -> Program:
    """Compile a source that includes nothing."""
    library, program = _library(), ctypes.c_void_p()
    if library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None):
        raise RuntimeError(f"NVRTC makes no program of {name}")
    encoded = [option.encode() for option in options]
    compiled = not library.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
    out = Program(compiled, _text(program, "ProgramLog"), _text(program, "PTX") if compiled else "")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return out


def missing() -> str | None:
    """Why it cannot be called here."""
    try:
        files(PACKAGE)
    except PackageNotFoundError:
        return f"{PACKAGE} is not installed"
    return None


def _text(program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(_library(), f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


@cache
def _library() -> ctypes.CDLL:
    found = files(PACKAGE) or []
    builtins, library = (next(file for file in found if file.name.startswith(name)) for name in ("libnvrtc-builtins.so", "libnvrtc.so"))
    ctypes.CDLL(str(builtins.locate()))  # the second looks for the first by name alone, and finds it where it is loaded already
    return ctypes.CDLL(str(library.locate()))

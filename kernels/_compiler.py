"""What CuPy brings to compile kernels with, and whether it does; for `gpu-synth doctor`, which looks where others only launch."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from gpu_synth.kernels import _launch


class Compiled(NamedTuple):
    """A kernel family on a device.

    Attributes:
        family: Name of its source.
        seconds: What loading it took.
        cached: Whether its binary lay in CuPy's cache already.
        error: Why it does not compile; empty where it does.
    """

    family: str
    seconds: float
    cached: bool
    error: str = ""


def cupy_versions() -> dict[str, str]:
    """Versions of CuPy, of the CUDA it was built for and of its compiler, NVRTC; needs no device.

    Raises:
        Exception: CuPy cannot be imported, or a library that it needs cannot be loaded; of whichever kind that raises.
    """
    cupy = _launch._cupy()
    runtime = int(cupy.cuda.runtime.runtimeGetVersion())
    nvrtc = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    return {"CuPy": str(cupy.__version__), "CuPy's CUDA": f"{runtime // 1000}.{runtime % 1000 // 10}", "NVRTC": nvrtc}


def cache_folder() -> Path:
    """Where CuPy keeps binaries."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def compile_families(device: int) -> list[Compiled]:
    """Compile every family for a device, or load it from the cache."""
    return [_compiled(family, device) for family in _launch.sources()]


def _compiled(family: str, device: int) -> Compiled:
    before, begin = _binaries(), time.perf_counter()
    try:
        _launch._module(family, device)
    except Exception as error:  # CuPy, NVRTC and the driver each have their own
        return Compiled(family, time.perf_counter() - begin, False, str(error).strip() or type(error).__name__)
    return Compiled(family, time.perf_counter() - begin, _binaries() == before)


def _binaries() -> int:
    folder = cache_folder()
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0

"""Where CUDA meets torch's memory: the only file that touches CuPy. torch allocates; CuPy compiles, and launches on torch's stream."""

import operator
import os
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gpu_synth.kernels._parameters import Parameter, parameters

Backend = Literal["auto", "torch", "cupy"]
BACKENDS = ("auto", "torch", "cupy")
Grid = tuple[int, int, int]

OLDEST_CUDA = 12  # that there is a CuPy for among the extras
NULL = 0  # a pointer to nothing
FOLDER = Path(__file__).parent
FLAGS = ("--std=c++17", "--fmad=false")  # what is written is what is computed: a fused product is asked for by name
RUNNER: Callable[[str, str, Grid, Grid, list[Any]], None] | None = (
    None  # what launches instead of CuPy: family, kernel, grid, block, arguments
)


def sources() -> dict[str, Path]:
    """CUDA sources by the name of their family."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.cu"))}


def source_text(path: Path) -> str:
    """A source with its headers written in, each once: CuPy's cache of binaries looks at nothing else."""
    seen: set[str] = set()

    def expand(file: Path) -> str:
        return re.sub(
            r'^#include "(\w+\.cuh)"$', lambda match: once(match[1]), file.read_text().replace("#pragma once\n", ""), flags=re.MULTILINE
        )

    def once(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        return expand(FOLDER / name)

    return expand(path)


def _cupy() -> Any:
    import cupy  # type: ignore[import-not-found,unused-ignore]

    return cupy


class Lack(NamedTuple):
    """Why CuPy cannot launch here, what to do about it, and by which command; no command where none mends it."""

    why: str
    mend: str = ""
    command: str = ""


def extra(major: str | int | None = None) -> str:
    """How pip is asked for the CuPy of a CUDA version, by default torch's."""
    return f'"gpu-synth[cuda{major or (torch.version.cuda or "13").split(".")[0]}]"'


def other_folder(error: Exception) -> str:
    """The command that names CuPy another folder, where an error says that it cannot write its own; else empty."""
    return "export CUPY_CACHE_DIR=/a/folder/to/write" if isinstance(error, OSError) and error.filename else ""


def lack() -> Lack | None:
    """What keeps CuPy from launching here; None where it can."""
    if not torch.cuda.is_available():
        return Lack("torch sees no CUDA device")
    try:
        cupy = _cupy()
    except Exception as error:  # a library of another version raises what it likes
        if command := other_folder(error):
            return Lack(f"CuPy cannot make the folder where it keeps compiled kernels ({error})", "name another", command)
        return Lack(f"CuPy cannot be imported ({error})", "install it", f"pip install {extra()}")
    try:
        driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    except Exception as error:  # the runtime's own, or that there is none in a CuPy that is half there
        return Lack(f"CuPy finds no device ({error})", "install the one for this CUDA", f"pip install {extra()}")
    if (built := runtime // 1000) > (offered := driver // 1000):
        if offered < OLDEST_CUDA:
            return Lack(f"CuPy was built for CUDA {built}, the driver offers {offered or 'none'}; a newer NVIDIA driver mends it")
        swap = f"pip uninstall cupy-cuda{built}x && pip install {extra(offered)}"
        return Lack(f"CuPy was built for CUDA {built}, the driver offers {offered}", "install the other", swap)
    return Lack(_broken[0]) if _broken else None


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why CuPy cannot launch here, and what mends it, in one sentence; None where it can."""
    found = lack()
    return found and (f"{found.why}; {found.mend}: {found.command}" if found.command else found.why)


def resolve(backend: str, device: torch.device) -> Literal["torch", "cupy"]:
    """Which backend works on a device: "auto" takes CuPy on CUDA where it can launch, else torch.

    Raises:
        ValueError: "cupy" was asked for and cannot launch on the device.
    """
    if backend == "torch" or RUNNER is not None:
        return "cupy" if backend == "cupy" else "torch"
    why = f"the tensors are on {device.type!r}" if device.type != "cuda" else missing()
    if why is None:
        return "cupy"
    if backend == "cupy":
        raise ValueError(f"backend 'cupy' must have CUDA tensors and a CuPy that can launch, got: {why}; or use backend='auto'")
    if device.type == "cuda":
        _tell(why)
    return "torch"


@cache
def _tell(why: str) -> None:
    """Say once that a GPU does without its kernels."""
    warnings.warn(f"on this GPU torch operations take the place of the CUDA kernels: {why}; backend='torch' asks for them", stacklevel=4)


def compile_all(backend: str) -> None:
    """Compile every family for this process's device, so that the first step of a training does not wait for it.

    Raises:
        ValueError: "cupy" was asked for and cannot launch here.
    """
    if backend == "torch" or RUNNER is not None or torch.cuda._is_in_bad_fork() or (backend == "auto" and missing() is not None):
        return
    resolve(backend, torch.device("cuda"))
    try:
        rank = int(os.environ.get("LOCAL_RANK", "-1"))  # before a trainer has chosen the process's device
        device = rank if 0 <= rank < torch.cuda.device_count() else torch.cuda.current_device()
        with torch.cuda.device(device):
            for family in sources():
                _module(family, device)
    except Exception as error:  # CuPy, NVRTC and the driver each have their own
        if backend == "cupy":
            raise
        _broken.append(f"its compiler fails ({error})")
        missing.cache_clear()


_broken: list[str] = []  # why compilation failed in this process

_LABEL_KINDS = {
    torch.uint8: 0, torch.uint16: 1, torch.uint32: 2, torch.uint64: 3, torch.int8: 4, torch.int16: 5, torch.int32: 6, torch.int64: 7
}  # fmt: skip
_IMAGE_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}


def label_kind(dtype: torch.dtype) -> int:
    """Number by which labels.cuh knows an integer type."""
    return _LABEL_KINDS[dtype]


def image_kind(dtype: torch.dtype) -> int:
    """Number by which images.cuh knows a floating type."""
    return _IMAGE_KINDS[dtype]


def key(seed: int) -> int:
    """Seed as kernels take it: 64 bits, two's complement."""
    return seed & 0xFFFFFFFFFFFFFFFF


def launch(family: str, kernel: str, grid: Grid, block: Grid, arguments: Sequence[object]) -> None:
    """Launch a kernel on torch's current stream, on the device of the tensors among its arguments.

    Args:
        family: Name of the source: `<family>.cu`.
        kernel: Name of the function in it.
        grid: Blocks along x, y, z.
        block: Threads of a block along x, y, z.
        arguments: Contiguous tensors, passed as pointers, and numbers, which become what the source declares.

    Raises:
        TypeError: A tensor has another dtype than the kernel's pointer, or a number another kind than its parameter.
        ValueError: A tensor is not contiguous, or lies on another device; or their number is wrong.
        OverflowError: A number does not fit its parameter.
    """
    device, values = _values(family, kernel, arguments)
    _run(device, family, kernel, grid, block, [values])


def launch_each(
    family: str, kernel: str, grid: Grid, block: Grid, arguments: Sequence[object], place: int, numbers: Sequence[object]
) -> None:
    """Launch a kernel once for each number, one after the other, all else being looked at once: see `launch`.

    `arguments` are those of `launch` but for the one at `place`, which the numbers take.
    """
    if numbers:
        device, values = _values(family, kernel, (*arguments[:place], numbers[0], *arguments[place:]))
        _, made, _ = _parameters(family, kernel)[place]
        assert made is not None  # it is no pointer
        _run(device, family, kernel, grid, block, [[*values[:place], made(number), *values[place + 1 :]] for number in numbers])


def _values(family: str, kernel: str, arguments: Sequence[Any]) -> tuple[torch.device, list[object]]:
    """What a kernel is handed, and where it runs. It is most of what a launch takes before CuPy has it: each question asked counts."""
    device: torch.device | None = None
    values: list[object] = []
    for argument, (name, number, dtype) in zip(arguments, _parameters(family, kernel), strict=True):
        if number is not None:
            values.append(number(argument))
            continue
        if not isinstance(argument, Tensor):
            values.append(operator.index(argument))  # NULL; what is no integer is refused
            continue
        device = device or argument.device
        if not argument.is_contiguous() or argument.device != device or (dtype is not None and argument.dtype != dtype):
            raise _misread(f"{name} of {kernel}", argument, dtype, device)
        values.append(argument.data_ptr())
    if device is None:
        raise ValueError(f"{kernel} must have a tensor among its arguments, got none")
    return device, values


def _run(device: torch.device, family: str, kernel: str, grid: Grid, block: Grid, every: Sequence[list[object]]) -> None:
    """Launch a kernel once for each list of values."""
    if RUNNER is not None:
        for values in every:
            RUNNER(family, kernel, grid, block, values)
        return
    index = device.index
    with nullcontext() if index == torch.cuda.current_device() else torch.cuda.device(index):
        stream = _stream(torch._C._cuda_getCurrentRawStream(index), index)  # as code that torch compiles asks for it
        function = _function(family, kernel, index)
        for values in every:
            function(grid, block, values, stream=stream)


def _misread(name: str, argument: Tensor, dtype: torch.dtype | None, device: torch.device) -> Exception:
    """Why a kernel would misread a tensor."""
    if not argument.is_contiguous():
        return ValueError(f"{name} must be contiguous, got strides {argument.stride()} for shape {tuple(argument.shape)}")
    if dtype is not None and argument.dtype != dtype:
        return TypeError(f"{name} must be {dtype}, got {argument.dtype}")
    return ValueError(f"{name} must be on {device}, as what comes before it, got {argument.device}")


@lru_cache(maxsize=256)
def _parameters(family: str, kernel: str) -> tuple[Parameter, ...]:
    if (found := parameters(sources()[family].read_text(), kernel)) is None:
        raise ValueError(f"kernel must be one of {family}.cu, got {kernel!r}")
    return found


@cache  # torch has some dozens of streams a device; of CuPy's views, those of some versions destroy the stream as they go
def _stream(pointer: int, device: int) -> Any:
    """CuPy's view of one of torch's streams."""
    streams = _cupy().cuda
    return (
        streams.ExternalStream(pointer, device)
        if not hasattr(streams.Stream, "from_external")
        else streams.Stream.from_external(_Raw(pointer))
    )


class _Raw(NamedTuple):
    """A stream as the CUDA stream protocol hands it over."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


@lru_cache(maxsize=256)
def _function(family: str, kernel: str, device: int) -> Any:
    """A kernel as CuPy launches it, on the device that it is loaded on."""
    return _module(family, device).get_function(kernel).kernel


@lru_cache(maxsize=64)
def _module(family: str, device: int) -> Any:
    module = _cupy().RawModule(code=source_text(sources()[family]), options=FLAGS, backend="nvrtc")
    try:
        module.compile()
    except OSError as error:
        if not other_folder(error):
            raise
        os.environ["CUPY_CACHE_IN_MEMORY"] = "1"  # CuPy asks at each compilation, and offers no other way to keep nothing
        module.compile()
    return module

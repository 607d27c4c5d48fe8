"""The project's CUDA sources on a CPU: the very same files, compiled by g++; the threads of a block take turns.

Between two barriers a thread runs alone, in forward or in reversed order, and so do blocks: where a barrier is missing, one of the two
orders gives another result. Shared memory starts as NaN in every block. What the GPU would refuse or hang on (a barrier that some threads
do not reach, a wrong argument, too many threads) raises and names the kernel.
"""

import ctypes
import fcntl
import hashlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

Grid = tuple[int, int, int]
HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"
CACHE = Path(tempfile.gettempdir()) / f"gpu-synth-emulator-{os.getuid()}"
SANITIZE = "GPU_SYNTH_EMULATOR_SANITIZE"  # set to 1 where the process runs under `run_sanitized`
FLAGS = (
    *("-shared", "-fPIC", "-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"),
    "-ffp-contract=off",  # no fused product that the source does not ask for, as --fmad=false
    "-fno-math-errno",
    "-fno-strict-aliasing",  # nvcc lets a pointer to float read as float4, and so on
    "-fvisibility=hidden",
)
PLAIN = ("-O2", "-fdata-sections", "-Wl,--no-undefined", f"-Wl,-T,{HERE / 'shared_memory.ld'}")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
KERNEL = re.compile(r"__global__\s+(?:__launch_bounds__\(([^()]+)\)\s*)?void\s+(?:__launch_bounds__\(([^()]+)\)\s*)?(\w+)\s*\(")


class CompilationError(RuntimeError):
    """The compiler refused a source."""


class LaunchError(RuntimeError):
    """A kernel did what a GPU would crash or hang on."""


class _Argument(ctypes.Structure):
    _fields_ = [("bits", ctypes.c_ulonglong), ("bytes", ctypes.c_int), ("kind", ctypes.c_char)]


class Emulator:
    """Runs the kernels of a folder on CPU memory; `run` stands in for the launcher's runner.

    Args:
        order: In which order threads and blocks run.
        sanitize: With the address and undefined-behaviour sanitizers; only under `run_sanitized`.
        folder: Where the sources are.
        defines: Names and values handed to the preprocessor.
    """

    def __init__(
        self,
        order: Literal["forward", "reversed"] = "forward",
        sanitize: bool = False,
        folder: Path = KERNELS,
        defines: Sequence[tuple[str, str]] = (),
    ) -> None:
        if order not in ("forward", "reversed"):
            raise ValueError(f"order must be 'forward' or 'reversed', got {order!r}")
        self.order, self.sanitize, self.folder, self.defines = order, sanitize, folder, tuple(defines)
        self._libraries: dict[str, ctypes.PyDLL] = {}

    def run(self, family: str, kernel: str, grid: Grid, block: Grid, arguments: Sequence[int | np.generic]) -> None:
        """Run one kernel to its end.

        Args:
            family: Name of the source: `<family>.cu`.
            kernel: Name of the function in it.
            grid: Blocks along x, y, z.
            block: Threads of a block along x, y, z.
            arguments: Addresses as Python integers, and NumPy scalars of the parameters' types.

        Raises:
            CompilationError: The source does not compile.
            TypeError: The kernel is not there, or the arguments or the block do not fit it.
            LaunchError: The kernel crashed, or its threads parted at a barrier.
        """
        where = f"{kernel} of {family}.cu"
        _check_launch(where, grid, block)
        if family not in self._libraries:
            self._libraries[family] = _library(self.folder / f"{family}.cu", self.defines, self.sanitize)
        library = self._libraries[family]
        given = (_Argument * len(arguments))(*map(_bind, arguments))
        sizes = [(ctypes.c_uint * 3)(*extent) for extent in (grid, block)]
        outcome = library.emulator_launch(kernel.encode(), *sizes, given, len(arguments), self.order == "reversed")
        if outcome:
            raise (TypeError if outcome == 1 else LaunchError)(f"{where}: {library.emulator_message().decode()}")


def emulated(monkeypatch: pytest.MonkeyPatch, order: Literal["forward", "reversed"] = "forward", folder: Path = KERNELS) -> Emulator:
    """Let the launcher run kernels on CPU tensors for the rest of a test; sanitized where the process is."""
    from gpu_synth.kernels import _launch

    emulator = Emulator(order, sanitize=os.environ.get(SANITIZE) == "1", folder=folder)
    monkeypatch.setattr(_launch, "RUNNER", emulator.run)
    return emulator


def run_sanitized(*arguments: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in a process that the address sanitizer watches; its report is added to `stderr`.

    Memory that torch and NumPy allocate there has guarded edges, so a kernel that leaves a tensor is caught.
    """
    libraries = (_runtime("libasan.so"), _runtime("libstdc++.so"))  # the second so that the first finds what it must wrap
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            SANITIZE: "1",
            "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=64:log_path={folder}/report",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder}/report",
        }
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        done.stderr += "".join(path.read_text() for path in sorted(Path(folder).iterdir()))
    return done


def kernels_of(source: Path) -> dict[str, str]:
    """Kernels of a source and what they say of their largest block, or an empty string."""
    return {name: before or after for before, after, name in KERNEL.findall(source.read_text())}


def _check_launch(where: str, grid: Grid, block: Grid) -> None:
    """Refuse what no GPU launches."""
    for name, extent, most in (("grid", grid, (2**31 - 1, 65535, 65535)), ("block", block, (1024, 1024, 64))):
        if len(extent) != 3 or not all(1 <= n <= limit for n, limit in zip(extent, most, strict=True)):
            raise TypeError(f"{where}: {name} must be three numbers from 1 to {most}, got {extent}")


def _bind(argument: int | np.generic) -> _Argument:
    """Turn a launcher's argument into what the library takes: its bits, their number, their kind."""
    if isinstance(argument, np.generic):
        return _Argument(int.from_bytes(argument.tobytes(), sys.byteorder), argument.itemsize, argument.dtype.kind.encode())
    return _Argument(argument, ctypes.sizeof(ctypes.c_void_p), b"p")


def _library(source: Path, defines: tuple[tuple[str, str], ...], sanitize: bool) -> ctypes.PyDLL:
    """Load a source's kernels, compiling them where the cache has them not; PyDLL since a library runs one launch at a time."""
    if sanitize and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        raise RuntimeError("sanitized kernels must run in a process that run_sanitized started")
    library = ctypes.PyDLL(str(_compiled(source, defines, sanitize)))
    library.emulator_message.restype = ctypes.c_char_p
    return library


def _compiled(source: Path, defines: tuple[tuple[str, str], ...], sanitize: bool) -> Path:
    """Compile a source into a shared library, once for whatever it is made of."""
    flags, text = [*FLAGS, *(SANITIZED if sanitize else PLAIN)], _wrapped(source, defines)
    parts = [source, *sorted(source.parent.glob("*.cuh")), *sorted(HERE.iterdir())]
    digest = hashlib.sha256("\0".join([_compiler(), *flags, *itertools.chain(*defines)]).encode())
    for part in filter(Path.is_file, parts):
        digest.update(part.name.encode() + b"\0" + part.read_bytes())
    target = CACHE / f"{source.stem}-{digest.hexdigest()[:20]}.so"
    CACHE.mkdir(mode=0o700, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side want the same libraries at the same time
        if not target.exists():
            unfinished = target.with_suffix(f".{os.getpid()}")
            same_names = f"-ffile-prefix-map={source.parent.resolve()}/="  # in messages: a copy elsewhere is the same library
            command = ["g++", *flags, same_names, "-x", "c++", "-", "-o", str(unfinished)]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CompilationError(f"{source}: g++ refuses it\n{done.stderr}")
            unfinished.replace(target)
    return target


def _wrapped(source: Path, defines: tuple[tuple[str, str], ...]) -> str:
    """What the compiler reads: the emulator, the source, and a table of its kernels."""
    entries = [
        f'{{"{name}", emulator::first_of({bound or 1024}), emulator::Bound<{name}>::fits, emulator::Bound<{name}>::body}},'
        for name, bound in kernels_of(source).items()
    ]
    lines = [
        f'#include "{HERE / "launch.hpp"}"',
        *(f"#define {name} {value}" for name, value in defines),
        "namespace {",  # names of one source do not meet those of another, and -Wunused sees what none uses
        f'#include "{source.resolve()}"',
        "const emulator::Kernel kernels[] = {",
        *entries,
        "{nullptr, 0, nullptr, nullptr}};",
        "}",
        "EMULATED_KERNELS(kernels)",
    ]
    return "\n".join(lines) + "\n"


@cache
def _compiler() -> str:
    return _answer("--version")


def _runtime(name: str) -> str:
    return str(Path(_answer(f"-print-file-name={name}").strip()).resolve())


def _answer(question: str) -> str:
    return subprocess.run(["g++", question], capture_output=True, text=True, check=True).stdout

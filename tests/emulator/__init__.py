"""The project's CUDA sources on a CPU: the very same files, compiled by g++; the threads of a block take turns.

Between two barriers a thread runs alone, in forward or in reversed order, and so do blocks: where a barrier is missing, one of the two
orders gives another result. Shared memory starts as NaN in every block. What the GPU would refuse or hang on (a barrier that some threads
do not reach, a wrong argument, too many threads) raises and names the kernel.

Watched for memory, sanitizers see every access. Watched for races, races.cpp does, called by what the compiler inserts for the thread
sanitizer: it asks what orders two accesses, not whether a result changed. So one order of threads is enough, values that agree excuse
nothing, and sources are compiled as they are. The sanitizer's own library would not do: it knows neither blocks nor their barriers, and
takes threads that take turns for ordered.
"""

import atexit
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

from emulator import races
from emulator.races import Grid, RaceError

Watch = Literal["memory", "races"]
HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"
CACHE = Path(tempfile.gettempdir()) / f"gpu-synth-emulator-{os.getuid()}"
WATCH = "GPU_SYNTH_EMULATOR_WATCH"  # what `emulated` watches kernels for: set by `run_sanitized` and `run_watched`
SEEN = "GPU_SYNTH_EMULATOR_SEEN"  # file in which a process under `run_watched` says what ran
FLAGS = (
    *("-shared", "-fPIC", "-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"),
    "-ffp-contract=off",  # no fused product that the source does not ask for, as --fmad=false
    "-fno-math-errno",
    "-fno-strict-aliasing",  # nvcc lets a pointer to float read as float4, and so on
    "-fvisibility=hidden",
)
PLAIN = ("-O2", "-fdata-sections", "-Wl,--no-undefined", f"-Wl,-T,{HERE / 'shared_memory.ld'}")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
RACES = (
    *PLAIN,
    *("-O1", "-g1", "-fno-tree-loop-im"),  # no load moves to where the source has none
    *("-DWATCH_RACES", "-fsanitize=thread", "--param=tsan-distinguish-volatile=1", "--param=tsan-instrument-func-entry-exit=0"),
    "-fno-threadsafe-statics",  # the emulator's own, which need no locks
)
BUILDS: dict[Watch | None, tuple[str, ...]] = {None: PLAIN, "memory": SANITIZED, "races": RACES}
DETECTOR = ("-c", "-DWATCH_RACES", "-O2", "-fPIC", "-std=c++17", "-Wall", "-Werror", "-fvisibility=hidden", str(HERE / "races.cpp"))
LIBRARIES = ("-nodefaultlibs", "-lstdc++", "-lm", "-lc", "-lgcc_s", "-lgcc")  # all but the thread sanitizer's
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
        watch: For "memory", by the address and undefined-behaviour sanitizers, only under `run_sanitized`; for "races", by the detector.
        folder: Where the sources are.
        defines: Names and values handed to the preprocessor.
    """

    def __init__(
        self,
        order: Literal["forward", "reversed"] = "forward",
        watch: Watch | None = None,
        folder: Path = KERNELS,
        defines: Sequence[tuple[str, str]] = (),
    ) -> None:
        if order not in ("forward", "reversed"):
            raise ValueError(f"order must be 'forward' or 'reversed', got {order!r}")
        self.order, self.watch, self.folder, self.defines = order, watch, folder, tuple(defines)
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
            RaceError: It is watched for races, and there are some.
        """
        where = f"{kernel} of {family}.cu"
        _check_launch(where, grid, block)
        if family not in self._libraries:
            self._libraries[family] = _library(self.folder / f"{family}.cu", self.defines, self.watch)
        library = self._libraries[family]
        given = (_Argument * len(arguments))(*map(_bind, arguments))
        sizes = [(ctypes.c_uint * 3)(*extent) for extent in (grid, block)]
        outcome = library.emulator_launch(kernel.encode(), *sizes, given, len(arguments), self.order == "reversed")
        if outcome:
            raise (TypeError if outcome == 1 else LaunchError)(f"{where}: {library.emulator_message().decode()}")
        if self.watch == "races":
            races.launched[family, kernel] = library
            names = _parameters(self.folder / f"{family}.cu", kernel)
            launch = races.Launch(grid, block, self.order == "reversed", dict(zip(names, arguments, strict=True)))
            if found := races.found(library, launch):
                raise RaceError("\n  ".join([f"{where}: {len(found)} race{'s' * (len(found) > 1)}", *found]))


def emulated(monkeypatch: pytest.MonkeyPatch, order: Literal["forward", "reversed"] = "forward", folder: Path = KERNELS) -> Emulator:
    """Let the launcher run kernels on CPU tensors for the rest of a test; watched where the process is."""
    from gpu_synth.kernels import _launch

    emulator = Emulator(order, os.environ.get(WATCH) or None, folder)
    monkeypatch.setattr(_launch, "RUNNER", emulator.run)
    return emulator


def run_sanitized(*arguments: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in a process that the address sanitizer watches; its report is added to `stderr`.

    Memory that torch and NumPy allocate there has guarded edges, so a kernel that leaves a tensor is caught.
    """
    libraries = (_runtime("libasan.so"), _runtime("libstdc++.so"))  # the second so that the first finds what it must wrap
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            WATCH: "memory",
            "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=64:log_path={folder}/report",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder}/report",
        }
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        done.stderr += "".join(path.read_text() for path in sorted(Path(folder).iterdir()))
    return done


def run_watched(*arguments: str | Path, timeout: float = 600) -> tuple[subprocess.CompletedProcess[str], races.Seen]:
    """Run `python ARGUMENTS` in a process in which `emulated` watches kernels for races; and say which kernels and barriers it ran."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {WATCH: "races", SEEN: f"{folder}/seen"}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        return done, races.read(Path(folder) / "seen")


def kernels_of(source: Path) -> dict[str, str]:
    """Kernels of a source and what they say of their largest block, or an empty string."""
    return {name: before or after for before, after, name in KERNEL.findall(source.read_text())}


@cache
def _parameters(source: Path, kernel: str) -> list[str]:
    """Names of a kernel's parameters."""
    found = re.search(rf"\b{kernel}\s*\(([^)]*)\)\s*{{", source.read_text())
    return re.findall(r"(\w+)\s*(?:,|$)", found[1]) if found else []


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


def _library(source: Path, defines: tuple[tuple[str, str], ...], watch: Watch | None) -> ctypes.PyDLL:
    """Load a source's kernels, compiling them where the cache has them not; PyDLL since a library runs one launch at a time."""
    if watch == "memory" and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        raise RuntimeError("sanitized kernels must run in a process that run_sanitized started")
    library = ctypes.PyDLL(str(_compiled(source, defines, watch)))
    library.emulator_message.restype = ctypes.c_char_p
    if watch == "races":
        races.declare(library)
    return library


def _compiled(source: Path, defines: tuple[tuple[str, str], ...], watch: Watch | None) -> Path:
    """Compile a source into a shared library."""
    flags, emulator = [*FLAGS, *BUILDS[watch]], [path for path in sorted(HERE.iterdir()) if path.is_file() and path.suffix != ".py"]
    key = [*flags, *itertools.chain(*defines)]
    same_names = f"-ffile-prefix-map={source.parent.resolve()}/="  # in messages: a copy elsewhere is the same library
    more = ["-x", "none", str(_made("races.o", DETECTOR, emulator, DETECTOR)), *LIBRARIES] if watch == "races" else []
    made_of = [source, *sorted(source.parent.glob("*.cuh")), *emulator]
    try:
        return _made(f"{source.stem}.so", key, made_of, [*flags, same_names, "-x", "c++", "-", *more], _wrapped(source, defines))
    except subprocess.CalledProcessError as error:
        raise CompilationError(f"{source}: g++ refuses it\n{error.stderr}") from None


def _made(name: str, key: Sequence[str], made_of: Sequence[Path], command: Sequence[str], text: str = "") -> Path:
    """Let g++ make a file, once for whatever it is made of."""
    digest = hashlib.sha256("\0".join([_compiler(), *key]).encode())
    for part in made_of:
        digest.update(part.name.encode() + b"\0" + part.read_bytes())
    target = CACHE / f"{Path(name).stem}-{digest.hexdigest()[:20]}{Path(name).suffix}"
    CACHE.mkdir(mode=0o700, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side want the same files at the same time
        if not target.exists():
            unfinished = target.with_suffix(f".{os.getpid()}")
            subprocess.run(["g++", *command, "-o", str(unfinished)], input=text, capture_output=True, text=True, check=True)
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
        "#pragma GCC poison memcpy memmove memset",  # which the race detector would not see
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


if SEEN in os.environ:
    atexit.register(races.write, Path(os.environ[SEEN]))

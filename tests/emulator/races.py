"""What the race detector (races.cpp) found, in words: which accesses, by which threads, at which lines of the sources."""

import ctypes
import json
import re
import subprocess
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

Grid = tuple[int, int, int]


class RaceError(RuntimeError):
    """Two threads met at a byte, and nothing ordered them."""


class Barrier(NamedTuple):
    """A barrier that was passed, and whether two accesses were seen that nothing else keeps apart."""

    file: str
    line: int
    needed: bool


class _Side(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("code", ctypes.c_uint), ("block", ctypes.c_uint), ("thread", ctypes.c_uint)]


class _Race(ctypes.Structure):
    _fields_ = [("address", ctypes.c_ulonglong), ("shared", ctypes.c_int), ("now", _Side), ("then", _Side)]


class _Barrier(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("line", ctypes.c_int), ("needed", ctypes.c_int)]


class Seen(NamedTuple):
    """What ran in a process that was watched: kernels by family and name, and barriers."""

    kernels: set[tuple[str, str]]
    barriers: set[Barrier]


launched: dict[tuple[str, str], ctypes.PyDLL] = {}  # kernels by family and name, each with the last library it ran in


class Launch(NamedTuple):
    """What was launched: extents, whether blocks and threads ran in reversed order, and the kernel's pointers by name."""

    grid: Grid
    block: Grid
    reversed: bool
    pointers: dict[str, int]


def declare(library: ctypes.PyDLL) -> None:
    """Tell ctypes what the detector's functions return."""
    library.emulator_races.restype = ctypes.POINTER(_Race)
    library.emulator_barrier.restype = ctypes.POINTER(_Barrier)
    library.emulator_barrier.argtypes = [ctypes.c_size_t]


def found(library: ctypes.PyDLL, launch: Launch) -> list[str]:
    """Races of the last launch, one a line, the same two places in the sources once."""
    number = ctypes.c_size_t()
    races = library.emulator_races(ctypes.byref(number))[: number.value]
    if not races:
        return []
    lines = _lines(library._name, [side.code - 1 for race in races for side in (race.now, race.then)])
    return list(dict.fromkeys(_told(race, *lines[2 * at : 2 * at + 2], launch) for at, race in enumerate(races)))


def barriers(library: ctypes.PyDLL) -> list[Barrier]:
    """Barriers that a library's kernels have passed in this process."""
    passed = takewhile(bool, map(library.emulator_barrier, count()))  # until a null pointer
    return [Barrier(Path(at[0].file.decode()).name, at[0].line, bool(at[0].needed)) for at in passed]


def write(file: Path) -> None:
    """Leave what ran in this process in a file."""
    passed = [barrier for library in set(launched.values()) for barrier in barriers(library)]
    file.write_text(json.dumps([list(launched), passed]))


def read(file: Path) -> Seen:
    """What such a file says; nothing where there is none."""
    kernels, passed = json.loads(file.read_text()) if file.exists() else ([], [])
    return Seen({(family, kernel) for family, kernel in kernels}, {Barrier(*barrier) for barrier in passed})


def _told(race: _Race, now: str, then: str, launch: Launch) -> str:
    kinds = ("reads", "writes", "reads atomically", "writes atomically")
    sides = [
        f"thread {_place(side.thread, launch.block, launch.reversed)} of block {_place(side.block, launch.grid, launch.reversed)} "
        f"{kinds[side.kind]} at {line}"
        for side, line in ((race.then, then), (race.now, now))
    ]
    where = "shared memory" if race.shared else f"global memory, {_argument(race.address, launch.pointers)}"
    what = "no barrier between" if race.now.block == race.then.block else "blocks are not ordered"
    return f"{where}: {sides[0]}, {sides[1]}; {what}"


def _place(turn: int, extent: Grid, backwards: bool) -> Grid:
    """Index of the block or thread that ran when so many had."""
    place = extent[0] * extent[1] * extent[2] - 1 - turn if backwards else turn
    return place % extent[0], place // extent[0] % extent[1], place // (extent[0] * extent[1])


def _argument(address: int, pointers: dict[str, int]) -> str:
    """Which of the arguments an address most likely lies in: that which points least far below."""
    distance, name = min(((address - start, name) for name, start in pointers.items() if start <= address), default=(address, "address 0"))
    return f"{name} + {distance} bytes"


def _lines(library: str, code: Sequence[int]) -> list[str]:
    """File and line of the source for each place in the code, seen through whatever was inlined there."""
    command = ["addr2line", "--inlines", "--addresses", f"--exe={library}", *map(hex, code)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    frames = [part.split() for part in re.split(r"^0x[0-9a-f]+\n", said, flags=re.MULTILINE)[1:]]
    return [next((Path(frame).name for frame in of if re.search(r"\.cuh?:\d", frame)), "an unknown line") for of in frames]

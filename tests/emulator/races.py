"""What the race detector (races.cpp) found, in words: which accesses, by which threads, at which lines of the sources."""

import ctypes
import json
import re
import subprocess
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

Grid = tuple[int, int, int]
KINDS = ("reads", "writes", "reads volatile", "writes atomically")


class RaceError(RuntimeError):
    """Two threads met at a byte, and nothing ordered them."""


class Launch(NamedTuple):
    """What was launched: extents, whether blocks and threads ran in reversed order, and the arguments by their names."""

    grid: Grid
    block: Grid
    reversed: bool
    arguments: dict[str, int | np.generic]


class Barrier(NamedTuple):
    """A barrier that was passed; and whether two accesses were seen that it alone keeps apart."""

    file: str
    line: int
    needed: bool


class Seen(NamedTuple):
    """What ran in a process that was watched: kernels by family and name, and barriers."""

    kernels: set[tuple[str, str]]
    barriers: set[Barrier]


class _Side(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("code", ctypes.c_uint), ("block", ctypes.c_uint), ("thread", ctypes.c_uint)]


class _Race(ctypes.Structure):
    _fields_ = [("address", ctypes.c_ulonglong), ("shared", ctypes.c_int), ("now", _Side), ("then", _Side)]


class _Barrier(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("line", ctypes.c_int), ("needed", ctypes.c_int)]


launched: dict[tuple[str, str], ctypes.PyDLL] = {}  # kernels by family and name, each with the last library that it ran in


def declare(library: ctypes.PyDLL) -> None:
    """Tell ctypes what the detector's functions return."""
    library.emulator_races.restype = ctypes.POINTER(_Race)
    library.emulator_barrier.restype = ctypes.POINTER(_Barrier)
    library.emulator_barrier.argtypes = [ctypes.c_size_t]


def found(library: ctypes.PyDLL, launch: Launch) -> list[str]:
    """Races of a library's last launch, two lines of the sources once each."""
    number = ctypes.c_size_t()
    races = library.emulator_races(ctypes.byref(number))[: number.value]
    if not races:
        return []
    lines = _lines(library._name, [side.code for race in races for side in (race.then, race.now)])
    told = {(then, now): _told(race, then, now, launch) for race, then, now in zip(races, lines[::2], lines[1::2], strict=True)}
    return list(told.values())


def barriers(library: ctypes.PyDLL) -> list[Barrier]:
    """Barriers that a library's kernels have passed in this process."""
    passed = takewhile(bool, map(library.emulator_barrier, count()))  # up to a null pointer
    return [Barrier(Path(at[0].file.decode()).name, at[0].line, bool(at[0].needed)) for at in passed]


def write(file: Path) -> None:
    """Leave what ran in this process in a file."""
    passed = [barrier for library in set(launched.values()) for barrier in barriers(library)]
    file.write_text(json.dumps([list(launched), passed]))


def read(file: Path) -> Seen:
    """What such a file says; nothing where there is none."""
    kernels, passed = json.loads(file.read_text()) if file.exists() else ([], [])
    return Seen({(family, kernel) for family, kernel in kernels}, {Barrier(*barrier) for barrier in passed})


def _told(race: _Race, then: str, now: str, launch: Launch) -> str:
    sides = [
        f"thread {_place(side.thread, launch.block, launch.reversed)} of block {_place(side.block, launch.grid, launch.reversed)} "
        f"{KINDS[side.kind]} at {line}"
        for side, line in ((race.then, then), (race.now, now))
    ]
    where = "shared memory" if race.shared else f"global memory, {_argument(race.address, launch)}"
    return f"{where}: {sides[0]}, {sides[1]}; {'no barrier between' if race.now.block == race.then.block else 'blocks have no order'}"


def _place(turn: int, extent: Grid, backwards: bool) -> Grid:
    """Index of the block or thread that ran when so many had."""
    place = extent[0] * extent[1] * extent[2] - 1 - turn if backwards else turn
    return place % extent[0], place // extent[0] % extent[1], place // (extent[0] * extent[1])


def _argument(address: int, launch: Launch) -> str:
    """In which argument's memory an address most likely lies: that which begins least far below it."""
    starts = [(value, name) for name, value in launch.arguments.items() if isinstance(value, int) and value <= address]
    start, name = max(starts, default=(0, "address 0"))
    return f"{name} + {address - start} bytes"


def _lines(library: str, returns: Sequence[int]) -> list[str]:
    """File and line of the source for each place in the code that a call returns to, seen through what the emulator has inlined there."""
    command = ["addr2line", "--inlines", "--addresses", f"--exe={library}", *(hex(place - 1) for place in returns)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    frames = re.split(r"^0x[0-9a-f]+\n", said, flags=re.MULTILINE)[1:]
    sources = [re.search(r"(\w+\.cuh?:\d+)", of) for of in frames]
    return [source[1] if source else "an unknown line" for source in sources]

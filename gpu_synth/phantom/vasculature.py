"""The phantom's vessels: named trunks of the upper belly, and the portal and hepatic trees that branch inside the liver.

Positions are millimetres, as in `gpu_synth.phantom.anatomy`; all of this is drawn on the host.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_synth.phantom.anatomy import Person
from gpu_synth.phantom.implicit import Point, Random

LEAST_RADIUS_MM = 1.0
TREE_SLOT = 101


@dataclass(frozen=True)
class Vessel:
    """A curve and the radius along it."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]


def trunks(person: Person) -> dict[str, list[Vessel]]:
    """Veins and arteries outside the liver, large enough to be told by name, and the adrenals, as thin as they."""

    def vessel(organ: int, radius: float, *points: Point) -> Vessel:
        return Vessel(tuple(person.at(organ, *p) for p in points), tuple(radius * (1 - 0.06 * n) for n in range(len(points))))

    confluence = (6.0, 52.0, -18.0)
    return {
        "veins": [
            vessel(8, 7.0, confluence, (19.0, 54.0, -13.0), (33.0, 46.0, -14.0)),
            vessel(6, 5.0, confluence, (-20.0, 44.0, -10.0), (-48.0, 30.0, -3.0), (-74.0, 8.0, 8.0), (-90.0, -8.0, 15.0)),
            vessel(6, 6.0, confluence, (9.0, 62.0, -50.0), (5.0, 68.0, -95.0), (2.0, 70.0, -130.0)),
            vessel(0, 5.0, (20.0, 32.0, -36.0), (36.0, 18.0, -42.0), (52.0, 2.0, -46.0)),
            vessel(0, 5.0, (18.0, 36.0, -28.0), (-6.0, 48.0, -30.0), (-26.0, 30.0, -30.0), (-48.0, 6.0, -30.0)),
        ],
        "arteries": [
            vessel(0, 3.8, (-8.0, 42.0, -10.0), (-10.0, 58.0, -32.0), (-8.0, 66.0, -80.0), (-4.0, 68.0, -130.0)),
            vessel(0, 3.4, (-9.0, 42.0, 4.0), (-9.0, 56.0, 4.0), (10.0, 58.0, -4.0), (20.0, 60.0, -8.0)),
            vessel(0, 2.6, (-9.0, 56.0, 4.0), (-34.0, 48.0, 4.0), (-60.0, 26.0, 10.0), (-84.0, 0.0, 18.0)),
            vessel(0, 2.6, (4.0, 32.0, -34.0), (28.0, 14.0, -42.0), (50.0, -2.0, -46.0)),
            vessel(0, 2.6, (-14.0, 32.0, -30.0), (-32.0, 14.0, -30.0), (-48.0, 2.0, -30.0)),
        ],
        "adrenals": [
            vessel(2, 2.4, (30.0, 26.0, 2.0), (35.0, 12.0, 0.0), (40.0, 0.0, -4.0)),
            vessel(3, 2.6, (-30.0, 30.0, -4.0), (-34.0, 18.0, 0.0), (-46.0, 6.0, -4.0)),
            vessel(3, 2.2, (-34.0, 18.0, 0.0), (-32.0, 8.0, 2.0), (-34.0, -2.0, 0.0)),
        ],
    }


def liver_trees(person: Person, random: Random) -> Iterator[Vessel]:
    """Portal and hepatic veins: large branches as in most people, which then divide until they are too thin to be seen."""
    top, front = person.dome_z, person.left_lobe / 70.0
    portal = person.at(8, 33.0, 46.0, -14.0)
    right, umbilical = person.at(8, 52.0, 42.0, -10.0), person.at(8, -12.0, 72.0, 2.0)
    porta = [
        (portal, right, 5.8, ((84.0, 62.0, 14.0), (78.0, 14.0, 2.0), (86.0, 30.0, -44.0))),
        (portal, umbilical, 4.8, ((-40.0 * front, 66.0, 22.0), (-38.0 * front, 84.0, -2.0), (14.0, 88.0, 8.0))),
    ]
    cava = person.at(0, 18.0, 52.0, top - 26.0)
    hepatic = [
        (cava, person.at(8, 56.0, 34.0, 0.5 * top), 5.6, ((96.0, 26.0, 12.0), (98.0, 42.0, -28.0), (90.0, -4.0, 30.0))),
        (cava, person.at(8, 30.0, 66.0, 0.45 * top), 4.6, ((46.0, 76.0, 2.0), (62.0, 72.0, -30.0), (26.0, 90.0, 14.0))),
        (cava, person.at(8, -8.0, 68.0, 0.5 * top), 4.0, ((-36.0 * front, 74.0, 30.0), (-4.0, 92.0, 26.0))),
    ]
    numbers = iter(random.uniform(TREE_SLOT, 16384).tolist())
    for start, end, radius, targets in (*porta, *hepatic):
        middle = tuple(0.5 * (a + b) + 8.0 * (next(numbers) - 0.5) for a, b in zip(start, end, strict=True))
        yield Vessel((start, (middle[0], middle[1], middle[2]), end), (radius, radius, 0.92 * radius))
        thinner = radius * (1.0 / len(targets)) ** (1 / 2.6)
        for target in targets:
            way = np.asarray(person.at(8, *target)) - np.asarray(end)
            thin = thinner * (0.9 + 0.25 * next(numbers))
            yield from _branch(np.asarray(end), way, thin, numbers, float(np.linalg.norm(way)))


def _branch(
    start: NDArray[np.float64], direction: NDArray[np.float64], radius: float, numbers: Iterator[float], length: float
) -> Iterator[Vessel]:
    """A bent branch and those that it divides into, each pair as wide as their parent (Murray's law, exponent 2.8)."""
    direction = direction / np.linalg.norm(direction)
    side = np.cross(direction, [next(numbers) - 0.5 for _ in range(3)])
    side = side / max(float(np.linalg.norm(side)), 1e-6)
    middle, end = start + 0.5 * length * direction + 0.1 * length * side, start + length * direction
    yield Vessel(tuple((float(p[0]), float(p[1]), float(p[2])) for p in (start, middle, end)), (radius, 0.95 * radius, 0.88 * radius))
    share = 0.3 + 0.4 * next(numbers)
    tilt = np.cross(direction, side) * (2 * next(numbers) - 1) + side * (2 * next(numbers) - 1)
    tilt = tilt / max(float(np.linalg.norm(tilt)), 1e-6)
    for part, sign in ((share, 1.0), (1 - share, -1.0)):
        thin = 0.95 * radius * part ** (1 / 2.8)
        if thin >= LEAST_RADIUS_MM:
            angle = math.radians(22.0 + 30.0 * (1 - part) + 10.0 * next(numbers))
            turned = direction * math.cos(angle) + sign * tilt * math.sin(angle)
            yield from _branch(end, turned, thin, numbers, (7.0 + 4.5 * thin) * (0.7 + 0.6 * next(numbers)))

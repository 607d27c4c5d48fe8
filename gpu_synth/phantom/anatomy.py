"""The organs of the phantom's belly as smooth bodies: where each lies, how large it is, and what it gives way to.

All lengths are millimetres. The origin is the middle of the trunk at the height of the liver's middle; x points to the patient's
right, y anterior, z superior. Sizes follow those of adults in anatomy textbooks, and vary from one person to the next.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_synth.phantom.implicit import FAR_MM, Lattice, Point, Random, capsules, common, ramp, union, without

SKIN_MM = 2.3


@dataclass(frozen=True)
class Person:
    """What differs between people, drawn on the host."""

    half_width: float
    half_depth: float
    fat: float  # under the skin
    spine_y: float  # middle of the vertebral bodies
    dome_z: float  # top of the right diaphragm
    liver_low: float  # how far the liver reaches below its middle
    left_lobe: float  # how far it reaches to the patient's left
    stomach: float  # scale of its width
    stomach_level: float  # of the fluid in it, 0 empty to 1 full
    kidney: float  # scale
    spleen: float  # scale
    pitch: float  # from vertebra to vertebra
    disc_z: float  # height of one disc
    rib_z: float  # height of the twelfth rib at the back
    rib_pitch: float
    shift: tuple[Point, ...]  # of organs

    @classmethod
    def draw(cls, random: Random) -> "Person":
        """Draw a person."""
        numbers = iter(random.uniform(1, 96).tolist())

        def between(low: float, high: float) -> float:
            return low + (high - low) * float(next(numbers))

        width, fat = between(152.0, 168.0), between(7.0, 24.0)
        depth = width * between(0.65, 0.7)
        return cls(
            half_width=width + 0.5 * fat,
            half_depth=depth + 0.4 * fat,
            fat=fat,
            spine_y=-depth - 0.2 * fat + 90.0 + between(-3.0, 3.0),
            dome_z=between(74.0, 86.0),
            liver_low=between(88.5, 96.0) + 1.2 * (160.0 - width) + 2.0 * (107.0 - depth),
            left_lobe=between(56.0, 92.0),
            stomach=between(0.66, 1.0),
            stomach_level=between(0.3, 0.75),
            kidney=between(0.9, 1.08),
            spleen=between(0.88, 1.1),
            pitch=between(31.0, 36.0),
            disc_z=between(-17.0, 17.0),
            rib_z=between(-10.0, 15.0),
            rib_pitch=between(26.0, 31.0),
            shift=tuple((between(-6.0, 6.0), between(-5.0, 5.0), between(-9.0, 9.0)) for _ in range(12)),
        )

    def at(self, organ: int, x: float, behind: float, z: float) -> Point:
        """A point of an organ: x, distance in front of the vertebral bodies' middle, z; moved as this person's organ is."""
        i, j, k = self.shift[organ]
        return x + i, self.spine_y + behind + j, z + k


Bodies = dict[str, Tensor]


def trunk(person: Person, lattice: Lattice) -> Bodies:
    """Skin, outer face of the muscles, abdominal and chest cavity, and the diaphragm under the lungs."""
    x, y, z = lattice.x, lattice.y, lattice.z
    swell = lattice.noise(2, 90.0)
    width, depth = person.half_width * (1 + 0.02 * torch.sin(z / 70.0)), person.half_depth * (1 + 0.0003 * z)
    u, v, power = (x / width).abs(), (y / depth).abs(), 2.35
    rho = (u**power + v**power).clamp_min(1e-6) ** (1 / power)
    slope = rho ** (1 - power) * ((u ** (power - 1) / width) ** 2 + (v ** (power - 1) / depth) ** 2).sqrt()
    groove = 9.0 * torch.exp(-((x / 22.0) ** 2)) * torch.sigmoid(-y / 12.0)
    body = lattice.normalised((rho - 1) / slope.clamp_min(1e-3)) + groove + 3.0 * swell + 0.8 * lattice.noise(29, 35.0)

    front, flank = torch.sigmoid(y / 12.0), torch.exp(-(((x.abs() - 0.62 * person.half_width) / 45.0) ** 2))
    dips = 6.0 * torch.exp(-((x / 6.0) ** 2)) + 4.5 * torch.exp(-(((x.abs() - 72.0) / 9.0) ** 2)) * torch.sigmoid(-(z - 20.0) / 15.0)
    fat = person.fat * (0.8 + 0.45 * flank * (1 - front) + 0.15 * front) + 1.5 * lattice.noise(3, 45.0)
    muscle = body + SKIN_MM + fat.clamp_min(3.0) + front * dips
    inner = body + SKIN_MM + fat.clamp_min(3.0) + 12.0 + 1.0 * lattice.noise(4, 30.0)

    back = ((x / 68.0) ** 2 + ((y - person.spine_y + 54.0) / 38.0) ** 2).sqrt() * 45.0 - 45.0
    spine = (x**2 + (y - person.spine_y) ** 2).sqrt() - 22.0
    cavity = lattice.normalised(without(without(inner, back, 24.0), spine.expand_as(inner), 10.0))
    right = ((x - 68.0) / 88.0) ** 2 + ((y - 6.0) / 88.0) ** 2
    left = ((x + 72.0) / 80.0) ** 2 + ((y - 4.0) / 85.0) ** 2
    height = -union(38.0 * right + 26.0 * right**2, 12.0 + 38.0 * left + 26.0 * left**2, 22.0)
    height = -20.0 + ramp(height + person.dome_z + 20.0, 8.0) + 2.0 * lattice.noise(5, 50.0)
    return {"body": body, "muscle": muscle, "cavity": cavity, "below": lattice.normalised(z - height)}


def vessels(person: Person, lattice: Lattice) -> Bodies:
    """Aorta, inferior vena cava and gullet."""
    top = person.dome_z

    def tube(radii: list[float], *points: Point) -> Tensor:
        return lattice.tube([person.at(0, *p) for p in points], radii)

    above, below = (-22.0, 16.0, 190.0), (-4.0, 32.0, -200.0)
    aorta = tube(
        [12.0, 11.5, 10.5, 9.5, 8.5, 8.0], above, (-20.0, 20.0, 100.0), (-9.0, 33.0, 30.0), (-6.0, 34.0, -40.0), (-4.0, 33.0, -110.0), below
    )
    lower = ((22.0, 30.0, -200.0), (23.0, 30.0, -90.0), (25.0, 33.0, -30.0))
    cava = tube([10.0, 10.0, 11.0, 12.0, 13.0, 13.0], *lower, (24.0, 40.0, 20.0), (20.0, 50.0, top - 25.0), (8.0, 60.0, top + 8.0))
    gullet = tube([8.0, 8.0, 8.0, 9.0], (-6.0, 36.0, 190.0), (-6.0, 42.0, 100.0), (-14.0, 50.0, top - 28.0), (-34.0, 40.0, top - 42.0))
    return {"aorta": aorta, "cava": cava + 1.4 * lattice.noise(27, 18.0), "gullet": gullet + 1.0 * lattice.noise(28, 18.0)}


def chest(person: Person, lattice: Lattice, bodies: Bodies) -> Bodies:
    """Heart, its chambers and the lungs' bases."""
    centre = person.at(1, -28.0, 62.0, person.dome_z + 34.0)
    turn = (0.0, 30.0, 25.0)
    heart = lattice.ellipsoid(centre, (64.0, 46.0, 48.0), turn) + 1.5 * lattice.noise(6, 30.0)
    septum = (lattice.x - centre[0] - 0.5 * (lattice.y - centre[1]) + 8.0 * lattice.noise(7, 40.0)).abs() - 5.0
    middle = union(heart - 5.0, union(bodies["aorta"] - 5.0, bodies["cava"] - 2.0, 10.0), 20.0)
    front = (lattice.x + 4.0 + 6.0 * lattice.noise(30, 45.0)).abs() - 14.0 - 5.0 * lattice.noise(31, 35.0)
    middle = union(middle, common(front, 48.0 - lattice.y.expand_as(heart), 10.0), 20.0)
    lung = without(common(bodies["cavity"] + 1.0, -bodies["below"], 4.0), middle, 8.0)
    return {"heart": heart, "chambers": without(heart + 10.0, septum, 6.0), "lung": lung}


def retroperitoneum(person: Person, lattice: Lattice, bodies: Bodies) -> Bodies:
    """Kidneys with their sinus, psoas and quadratus, adrenals and the crura of the diaphragm."""
    out: Bodies = {}
    scale, kidneys, sinuses = person.kidney, [], []
    for organ, side, z in ((2, 1.0, -50.0), (3, -1.0, -30.0)):
        x, y, z = person.at(organ, side * 61.0, -13.0, z)
        turn = (-14.0, side * 13.0, side * -32.0)
        kidneys.append(lattice.ellipsoid((x, y, z), (27.0 * scale, 23.0 * scale, 54.0 * scale), turn))
        hilum = lattice.ellipsoid((x - side * 17.0, y + 9.0, z), (18.0, 8.0, 24.0), turn)
        sinuses.append(hilum + 1.6 * lattice.noise(8, 14.0))
    kidney, sinus = torch.minimum(*kidneys), torch.minimum(*sinuses)
    out["fossa"] = union(kidneys[0] - 4.5, lattice.ellipsoid(person.at(2, 52.0, -39.0, -58.0), (36.0, 36.0, 68.0)), 12.0)
    out["kidney"] = without(kidney + 0.8 * lattice.noise(9, 22.0), sinus, 6.0)
    out["kidney_left"], out["sinus"] = kidneys[1], sinus
    growth = (20.0 * torch.sigmoid(-(lattice.z + 45.0) / 28.0)).clamp_min(0.01)
    side_x = lattice.x.abs()
    psoas = ((side_x - 27.0 - 0.5 * growth) ** 2 + (0.75 * (lattice.y - person.spine_y - 1.0)) ** 2).sqrt() - 0.88 * growth
    quadratus = (((side_x - 66.0) / 2.2) ** 2 + (lattice.y - person.spine_y + 32.0 + 0.2 * (side_x - 66.0)) ** 2).sqrt() - 8.5
    quadratus = common(quadratus.expand(lattice.shape), (lattice.z + 5.0).expand(lattice.shape), 12.0)
    crus = common(bodies["aorta"] - 6.5, 0.8 * (lattice.y - person.spine_y - 42.0), 6.0)
    crus = common(crus, (-lattice.z - 60.0).expand(lattice.shape), 10.0)
    muscles = union(union(psoas, quadratus, 5.0), crus, 4.0) + 1.5 * lattice.noise(10, 20.0)
    out["posterior"] = common(muscles, bodies["below"] + 1.0, 4.0)
    return out


def foregut(person: Person, lattice: Lattice, bodies: Bodies) -> Bodies:
    """Stomach, spleen, pancreas, duodenum and gallbladder."""
    top, inside = person.dome_z, bodies["cavity"]
    j_shape = [(-56.0, 9.0, top - 38.0), (-66.0, 32.0, 14.0), (-52.0, 60.0, -18.0), (-14.0, 74.0, -34.0), (18.0, 68.0, -26.0)]
    stomach = lattice.tube([person.at(4, *p) for p in j_shape], [r * person.stomach for r in (34.0, 32.0, 25.0, 19.0, 12.0)], 14.0)
    stomach = stomach + 3.5 * lattice.noise(11, 30.0)
    stomach = common(common(stomach, inside + 5.0, 12.0), bodies["below"] + 6.0, 12.0)
    size = person.spleen
    spleen = lattice.ellipsoid(person.at(5, -112.0, -14.0, 20.0), (34.0 * size, 52.0 * size, 54.0 * size), (0.0, 0.0, 20.0))
    spleen = common(common(spleen + 2.0 * lattice.noise(12, 28.0), inside + 2.5, 8.0), bodies["below"] + 3.5, 8.0)
    spleen = without(without(spleen, stomach - 4.0, 10.0), bodies["kidney_left"] - 6.0, 10.0)
    gland = [(36.0, 46.0, -54.0), (26.0, 56.0, -34.0), (2.0, 62.0, -18.0), (-30.0, 48.0, -8.0), (-60.0, 28.0, 2.0), (-86.0, 4.0, 12.0)]
    pancreas = lattice.tube([person.at(6, *p) for p in gland], [12.0, 13.0, 9.0, 10.0, 10.0, 7.0]) + 2.2 * lattice.noise(13, 11.0)
    pancreas = without(without(pancreas, stomach - 3.0, 4.0), torch.minimum(bodies["kidney"], spleen) - 4.0, 4.0)
    pancreas = without(pancreas, torch.minimum(bodies["aorta"], bodies["cava"]) - 5.0, 4.0)
    loop = [(26.0, 70.0, -24.0), (48.0, 52.0, -34.0), (50.0, 36.0, -66.0), (28.0, 46.0, -92.0), (-12.0, 50.0, -90.0), (-30.0, 58.0, -76.0)]
    duodenum = lattice.tube([person.at(6, *p) for p in loop], [11.0, 13.0, 13.0, 12.0, 11.0, 10.0]) + 1.2 * lattice.noise(14, 16.0)
    duodenum = without(without(duodenum, pancreas - 1.5, 4.0), torch.minimum(bodies["aorta"], bodies["cava"]) - 4.0, 4.0)
    pear = [(34.0, 50.0, -28.0), (44.0, 62.0, -48.0), (50.0, 76.0, -68.0)]
    gallbladder = lattice.tube([person.at(7, *p) for p in pear], [6.0, 12.5, 14.0]) + 0.8 * lattice.noise(15, 20.0)
    return {"stomach": stomach, "spleen": spleen, "pancreas": pancreas, "duodenum": duodenum, "gallbladder": gallbladder}


def liver(person: Person, lattice: Lattice, bodies: Bodies) -> Tensor:
    """A right and a left lobe under the diaphragm, moulded by their neighbours, with the fissure between them."""
    x, y, z = lattice.x, lattice.y - person.spine_y, lattice.z
    under = common(bodies["cavity"] + 2.5, bodies["below"] + 3.0, 10.0)
    medial = 28.0 - 0.42 * ramp(y, 12.0) + 0.95 * ramp(-26.0 - z, 10.0) - 0.25 * ramp(z - 20.0, 15.0)
    right = lattice.normalised((medial - x).expand(lattice.shape) + 3.0 * lattice.noise(16, 40.0))
    behind = 30.0 - 0.4 * x + 5.0 * lattice.noise(17, 45.0)
    left = common(behind - y, -person.left_lobe - 0.25 * (z - 20.0) - x.expand(lattice.shape), 22.0)
    edge = -person.liver_low + 0.52 * ramp(115.0 - x, 12.0) - 0.34 * (y - 15.0)
    floor = lattice.normalised((edge - z).expand(lattice.shape) + 3.0 * lattice.noise(18, 45.0))
    whole = common(common(union(right, left, 16.0), floor, 22.0), under, 8.0)
    whole = whole + 1.0 * lattice.noise(19, 22.0) + 0.4 * lattice.noise(20, 12.0)

    ligament = (x + 6.0 + 0.25 * (y - 60.0) + 4.0 * lattice.noise(21, 40.0)).abs() - 2.2
    fissure = common(common(ligament, 50.0 - y, 8.0), (z + 2.0).expand(lattice.shape) + 6.0 * lattice.noise(22, 50.0), 10.0)
    hilum = lattice.tube([person.at(8, *p) for p in ((34.0, 44.0, -22.0), (16.0, 54.0, -12.0), (-4.0, 66.0, 0.0))], [8.5, 6.0, 3.0])
    for gap_mm, round_mm, neighbour in (
        (0.5, 5.0, fissure),
        (-1.0, 6.0, hilum),
        (-1.0, 3.0, bodies["cava"]),
        (1.5, 6.0, bodies["gullet"]),
        (7.0, 12.0, bodies["aorta"]),
        (0.0, 14.0, bodies["fossa"]),
        (2.5, 12.0, bodies["stomach"]),
        (-0.6, 4.0, bodies["gallbladder"]),
        (2.0, 8.0, bodies["duodenum"]),
    ):
        whole = without(whole, neighbour - gap_mm, round_mm)
    return whole


def bowel(person: Person, lattice: Lattice, bodies: Bodies) -> Bodies:
    """Colon with haustra, and loops of small bowel in the room that is left; `content` is a number in [0, 1) for each loop."""
    frame = [(88.0, 14.0, -190.0), (90.0, 16.0, -110.0), (82.0, 40.0, -80.0), (46.0, 78.0, -74.0), (0.0, 84.0, -86.0), (-48.0, 80.0, -70.0)]
    frame += [(-88.0, 56.0, -34.0), (-106.0, 26.0, -6.0), (-112.0, 4.0, -40.0), (-110.0, 6.0, -100.0), (-106.0, 8.0, -190.0)]
    radii = [23.0, 24.0, 23.0, 20.0, 19.0, 20.0, 20.0, 19.0, 16.0, 14.0, 14.0]
    colon = lattice.tube([person.at(9, *p) for p in frame], radii, 6.0) + 3.2 * lattice.noise(23, 19.0)
    room = common(bodies["cavity"] + 4.0, bodies["below"] + 6.0, 6.0)
    for gap_mm, name in ((2.5, "liver"), (3.0, "stomach"), (3.0, "spleen"), (9.0, "kidney"), (2.5, "gallbladder"), (2.0, "duodenum")):
        room = without(room, bodies[name] - gap_mm, 5.0)
    colon = common(colon, room, 6.0)
    room = without(room, torch.minimum(bodies["pancreas"], bodies["posterior"]) - 5.0, 5.0)
    room = without(room, torch.minimum(bodies["aorta"], bodies["cava"]) - 8.0, 8.0)
    front = person.spine_y + 28.0 - lattice.y + 7.0 * lattice.noise(32, 32.0)
    room = common(without(common(room, front, 10.0), colon - 2.5, 4.0), (lattice.z + 28.0).expand(lattice.shape), 14.0)
    nearest, second, content = _loops(lattice)
    loops = common(nearest + 1.2 * lattice.noise(25, 14.0), 0.5 * (nearest - second) + 1.3, 2.0)
    return {"colon": colon, "loops": common(loops, room, 5.0), "content": content}


def _loops(lattice: Lattice) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to the nearest and second nearest of many short tubes, and a number of the nearest."""
    counts, pitch = (10, 6, 8), 29.0
    draws = lattice.random.uniform(24, 8 * math.prod(counts)).reshape(-1, 8)
    nearest, second = (torch.full(lattice.shape, FAR_MM, dtype=torch.float32, device=lattice.device) for _ in range(2))
    content = torch.zeros(lattice.shape, dtype=torch.float32, device=lattice.device)
    for place, u in enumerate(draws):
        i, rest = divmod(place, counts[1] * counts[2])
        cell = (i - 4.5, rest // counts[2] - 1.5, rest % counts[2] - 7.0)
        middle = [pitch * (c + 0.75 * (t - 0.5)) for c, t in zip(cell, u[:3], strict=True)]
        turn, rise = 2 * math.pi * u[3], 1.6 * (u[4] - 0.5)
        along = [14.0 * math.cos(turn), 14.0 * math.sin(turn) * 0.6, 14.0 * rise]
        box = lattice.box([m - 36.0 for m in middle], [m + 36.0 for m in middle])
        if min(part.stop - part.start for part in box) < 2:
            continue
        x, y, z = (axis[part] for axis, part in zip(lattice.axes_mm, box, strict=True))
        ends, radius = [[m + s * a for m, a in zip(middle, along, strict=True)] for s in (-1, 1)], 11.0 + 6.0 * u[5]
        path, radii = np.asarray(ends), np.asarray([radius, radius])
        distance = capsules(x[:, None, None], y[None, :, None], z[None, None, :], path, radii, 1.0)
        closer = distance < nearest[box]
        content[box] = torch.where(closer, torch.full_like(distance, u[6]), content[box])
        second[box] = torch.minimum(second[box], torch.maximum(distance, nearest[box]))
        nearest[box] = torch.minimum(nearest[box], distance)
    return nearest, second, content


def anatomy(person: Person, lattice: Lattice) -> Bodies:
    """All bodies of a person on a lattice: negative inside, millimetres."""
    bodies = trunk(person, lattice)
    bodies |= vessels(person, lattice)
    parts: tuple[Callable[[Person, Lattice, Bodies], Bodies], ...] = (chest, retroperitoneum, foregut)
    for part in parts:
        bodies |= part(person, lattice, bodies)
    bodies["liver"] = liver(person, lattice, bodies)
    return bodies | bowel(person, lattice, bodies)

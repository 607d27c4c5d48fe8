"""The phantom's tissues, painted one over another: what each is worth in HU, and how it looks inside."""

import torch
from torch import Tensor

from gpu_synth.phantom.anatomy import SKIN_MM, Bodies, Person
from gpu_synth.phantom.implicit import Box, Grid, capsules, curve
from gpu_synth.phantom.skeleton import SHELL_MM, ribs, spine
from gpu_synth.phantom.vasculature import Vessel, liver_trees, trunks

# HU in portal-venous phase, without contrast, and how far either way it varies between people
TISSUE_HU = {
    "air": (-1000.0, -1000.0, 0.0),
    "lung": (-850.0, -850.0, 25.0),
    "skin": (55.0, 45.0, 10.0),
    "fat": (-105.0, -107.0, 4.0),
    "muscle": (62.0, 54.0, 4.0),
    "liver": (106.0, 58.0, 6.0),
    "liver vessel": (178.0, 39.0, 8.0),
    "spleen": (120.0, 50.0, 5.0),
    "cortex": (182.0, 34.0, 8.0),
    "medulla": (128.0, 31.0, 8.0),
    "aorta": (152.0, 42.0, 8.0),
    "vein": (160.0, 42.0, 8.0),
    "myocardium": (105.0, 44.0, 5.0),
    "pancreas": (92.0, 42.0, 6.0),
    "gut wall": (82.0, 42.0, 6.0),
    "water": (14.0, 12.0, 6.0),
    "bile": (9.0, 9.0, 4.0),
    "adrenal": (72.0, 20.0, 6.0),
    "disc": (84.0, 80.0, 8.0),
    "cord": (36.0, 32.0, 4.0),
    "marrow": (180.0, 160.0, 25.0),
    "shell": (720.0, 700.0, 60.0),
    "cartilage": (128.0, 120.0, 10.0),
}


class Canvas:
    """The image while tissues are painted over one another, each edge as wide as the scanner and the voxels make it."""

    def __init__(self, grid: Grid, hu: dict[str, float], edge_mm: float) -> None:
        self.grid, self.hu, self.edge_mm = grid, hu, edge_mm
        self.image = torch.full(grid.shape, hu["air"], dtype=torch.float32, device=grid.device)

    def cover(self, distance: Tensor) -> Tensor:
        """Share of each voxel that a body fills."""
        return (0.5 - distance / self.edge_mm).clamp_(0.0, 1.0)

    def paint(self, distance: Tensor, hu: Tensor | float | str, box: Box | None = None) -> None:
        """Put a body over what is there."""
        value = self.hu[hu] if isinstance(hu, str) else hu
        part = self.image if box is None else self.image[box]
        part.add_((value - part).mul_(self.cover(distance)))

    def tube(self, vessel: Vessel, hu: str) -> None:
        """Put a vessel over what is there."""
        box, distance = self.along(vessel)
        self.paint(distance, hu, box)

    def along(self, vessel: Vessel) -> tuple[Box, Tensor]:
        """Distance to a vessel, in the box that holds it."""
        path, radius = curve(vessel.points, vessel.radii, 2)
        reach = max(vessel.radii) + self.edge_mm
        box = self.grid.box((path.min(0) - reach).tolist(), (path.max(0) + reach).tolist())
        x, y, z = (axis[part] for axis, part in zip(self.grid.axes_mm, box, strict=True))
        return box, capsules(x[:, None, None], y[None, :, None], z[None, None, :], path, radius, 0.5)


def paint(canvas: Canvas, person: Person, bodies: Bodies) -> tuple[Tensor, Tensor]:
    """Paint a person; return the distances to liver and skin on the canvas's grid, in millimetres, negative inside."""
    skin = _wall(canvas, person, bodies)
    _organs(canvas, person, bodies)
    _gut(canvas, person, bodies)
    liver = _liver(canvas, person, bodies)
    _chest(canvas, person, bodies)
    _bones(canvas, person, bodies)
    return liver, skin


def _wall(canvas: Canvas, person: Person, bodies: Bodies) -> Tensor:
    """Table, skin, fat, the layers of muscle, and the fat of the belly with its small vessels."""
    grid = canvas.grid
    board = grid.y + person.half_depth + 10.0 - 0.0009 * grid.x**2
    for lower, hu in ((0.0, -20.0), (-36.0, 60.0)):
        canvas.paint((board - lower).abs() - 1.8, hu)
    skin, muscle, cavity = (grid.take(bodies[name]) for name in ("body", "muscle", "cavity"))
    canvas.paint(skin, "skin")
    fat = canvas.hu["fat"] + 5.0 * grid.noise(50, 30.0)
    canvas.paint(skin + SKIN_MM, fat)
    grain = grid.noise(51, 8.0)
    canvas.paint(muscle, canvas.hu["muscle"] - 26.0 * (grain - 0.8).clamp_(0.0, 2.0))
    septa = grid.noise(67, 26.0).abs_() * 15.0 + 0.35 * grain - 0.1 + 30.0 * (grid.y > person.spine_y - 12.0).float()
    canvas.paint(torch.maximum(septa, muscle + 3.0), "fat")
    seam = (
        ((cavity - 5.5 - 0.8 * grain).abs() - 0.35) + 30.0 * (grid.y < person.spine_y - 30.0).float() + 30.0 * (grid.x.abs() < 76.0).float()
    )
    canvas.paint(seam, "fat")
    canvas.paint(cavity, fat)
    thread = (grid.noise(52, 24.0) ** 2 + grid.noise(53, 24.0) ** 2).sqrt_() * 15.0 - 1.1
    canvas.paint(torch.maximum(thread, cavity + 4.0), "vein")
    return skin


def _organs(canvas: Canvas, person: Person, bodies: Bodies) -> None:
    """Solid organs, muscles at the back and the named vessels."""
    grid, back = canvas.grid, person.spine_y
    below = grid.take(bodies["below"])
    canvas.paint(torch.maximum((below + 1.3).abs() - 1.3, grid.take(bodies["cavity"])), "muscle")

    def lay(name: str, tissue: str, low: tuple[float, float, float], high: tuple[float, float, float]) -> None:
        box = grid.box(low, high)
        canvas.paint(grid.take(bodies[name], box), tissue, box)

    lay("posterior", "muscle", (-110.0, back - 70.0, -1e4), (110.0, back + 70.0, 60.0))
    lay("spleen", "spleen", (-190.0, back - 100.0, -75.0), (-50.0, back + 70.0, 105.0))
    lay("pancreas", "pancreas", (-120.0, back - 30.0, -90.0), (80.0, back + 95.0, 50.0))
    lay("gullet", "gut wall", (-90.0, back, -10.0), (40.0, back + 80.0, 1e4))
    lay("aorta", "aorta", (-60.0, back, -1e4), (40.0, back + 65.0, 1e4))
    lay("cava", "vein", (-30.0, back, -1e4), (60.0, back + 95.0, 1e4))
    _kidneys(canvas, person, bodies)
    for tissue, name in (("vein", "veins"), ("aorta", "arteries"), ("adrenal", "adrenals")):
        for vessel in trunks(person)[name]:
            canvas.tube(vessel, tissue)
    box = grid.box((10.0, back + 25.0, -100.0), (90.0, back + 110.0, 10.0))
    bile = grid.take(bodies["gallbladder"], box)
    canvas.paint(bile, "gut wall", box)
    canvas.paint(bile + 1.2, "bile", box)


def _kidneys(canvas: Canvas, person: Person, bodies: Bodies) -> None:
    """Cortex, pyramids, and the fat and urine of the sinus."""
    grid = canvas.grid
    box = grid.box((-115.0, person.spine_y - 70.0, -135.0), (115.0, person.spine_y + 50.0, 50.0))
    kidney, sinus = grid.take(bodies["kidney"], box), grid.take(bodies["sinus"], box)
    canvas.paint(kidney, "cortex", box)
    pyramids = torch.maximum(kidney + 6.5, 2.2 * (-0.1 - grid.noise(54, 9.0, box)))
    canvas.paint(pyramids, "medulla", box)
    canvas.paint(torch.maximum(kidney + 1.0, sinus + 1.5), -60.0, box)
    canvas.paint(torch.maximum(sinus + 3.5, 2.0 * (0.3 - grid.noise(55, 12.0, box))), "water", box)


def _gut(canvas: Canvas, person: Person, bodies: Bodies) -> None:
    """Stomach with its level of fluid under air, duodenum, small bowel and the colon with gas."""
    grid, back, wall = canvas.grid, person.spine_y, canvas.hu["gut wall"]
    box = grid.box((-135.0, back - 45.0, -90.0), (65.0, back + 125.0, person.dome_z + 25.0))
    stomach = grid.take(bodies["stomach"], box)
    canvas.paint(stomach, "gut wall", box)
    lumen = stomach + 4.5 + 1.3 * grid.noise(56, 9.0, box)
    canvas.paint(lumen, canvas.hu["water"] + 8.0 + 12.0 * grid.noise(57, 10.0, box), box)
    level = back + 20.0 + 72.0 * person.stomach_level - grid.y[:, box[1]]
    canvas.paint(torch.maximum(lumen, level), "air", box)

    box = grid.box((-60.0, back + 10.0, -125.0), (85.0, back + 105.0, 5.0))
    duodenum = grid.take(bodies["duodenum"], box)
    canvas.paint(duodenum, "gut wall", box)
    canvas.paint(duodenum + 4.0, "water", box)

    box = grid.box((-1e4, -1e4, -1e4), (1e4, 1e4, 15.0))
    loops, content, folds = (grid.take(bodies["loops"], box), grid.take(bodies["content"], box), grid.noise(58, 7.0, box))
    canvas.paint(loops, wall, box)
    inner = loops + 2.6 + 0.9 * folds
    canvas.paint(inner, 18.0 + 50.0 * (content - 0.3).clamp(0.0, 0.7) + 8.0 * folds, box)
    canvas.paint(torch.maximum(inner + 2.0, 40.0 * (0.88 - content)), "air", box)

    box = grid.box((-1e4, -1e4, -1e4), (1e4, 1e4, 50.0))
    colon, coarse, fine = grid.take(bodies["colon"], box), grid.noise(59, 26.0, box), grid.noise(60, 7.0, box)
    canvas.paint(colon, wall, box)
    canvas.paint(colon + 2.4, -15.0 - 80.0 * fine.clamp(-0.8, 2.0), box)
    gas = 0.7 * coarse + 1.1 * fine + 0.022 * (grid.y[:, box[1]] - back - 52.0) - 0.5
    canvas.paint(torch.maximum(colon + 2.4, -2.8 * gas), "air", box)


def _liver(canvas: Canvas, person: Person, bodies: Bodies) -> Tensor:
    """Parenchyma with the branches of portal and hepatic veins; returns the distance to it everywhere."""
    grid = canvas.grid
    liver = grid.take(bodies["liver"])
    canvas.paint(liver, canvas.hu["liver"] + 1.5 * grid.noise(61, 35.0) + 1.0 * grid.noise(62, 9.0))
    tree = torch.zeros_like(liver)
    for vessel in liver_trees(person, grid.random):
        box, distance = canvas.along(vessel)
        part = tree[box]
        torch.maximum(part, canvas.cover(distance), out=part)
    tree *= canvas.cover(liver + 2.5)
    canvas.image.add_((canvas.hu["liver vessel"] - canvas.image).mul_(tree))
    return liver


def _chest(canvas: Canvas, person: Person, bodies: Bodies) -> None:
    """Heart, and lungs with their vessels."""
    grid = canvas.grid
    box = grid.box((-130.0, -1e4, person.dome_z - 45.0), (90.0, 1e4, 1e4))
    canvas.paint(grid.take(bodies["heart"], box), "myocardium", box)
    canvas.paint(grid.take(bodies["chambers"], box), "aorta", box)
    box = grid.box((-1e4, -1e4, -60.0), (1e4, 1e4, 1e4))
    lung = grid.take(bodies["lung"], box)
    canvas.paint(lung, canvas.hu["lung"] + 14.0 * grid.noise(63, 40.0, box), box)
    thread = (grid.noise(64, 19.0, box) ** 2 + grid.noise(65, 19.0, box) ** 2).sqrt_() * 11.0 - 1.0
    canvas.paint(torch.maximum(thread, lung + 3.0), 40.0, box)


def _bones(canvas: Canvas, person: Person, bodies: Bodies) -> None:
    """Ribs and spine: marrow in a bright shell."""
    grid = canvas.grid
    cage = ribs(person, grid, grid.take(bodies["cavity"]))
    canvas.paint(cage.cartilage, "cartilage")
    canvas.paint(cage.bone, "shell")
    canvas.paint(cage.bone + SHELL_MM, "marrow")
    column = spine(person, grid)
    canvas.paint(column.disc, "disc", column.box)
    canvas.paint(column.canal, -20.0, column.box)
    canvas.paint(column.canal + 1.6, "cord", column.box)
    canvas.paint(column.bone, "shell", column.box)
    trabeculae = canvas.hu["marrow"] + 22.0 * grid.noise(66, 8.0, column.box)
    canvas.paint(column.bone + SHELL_MM, trabeculae, column.box)

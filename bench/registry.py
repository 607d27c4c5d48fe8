"""Every operation that is measured: one row each, named like its kernel family.

A row makes its input for a device and says which bytes the operation cannot avoid to move: its floor is a copy of as many.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_synth import presets
from gpu_synth.kernels import blend, gaussian, placement, plan, rng, shape, texture
from gpu_synth.plan import TumorPlan
from gpu_synth.presets import SIZE_CLASSES
from gpu_synth.synthesizer import TumorSynthesizer
from gpu_synth.table import parameter_table, slots_of

PATCH_VOX = (96, 96, 96)
SPACING_MM = (1.0, 1.0, 1.0)
SEED = 0


class Case(NamedTuple):
    """An operation ready to run: `run()` does it once, `floor_bytes` is what it reads and writes at the least."""

    run: Callable[[], object]
    floor_bytes: int


class Operation(NamedTuple):
    """A row: name, shapes in words, and the input's maker."""

    name: str
    shapes: str
    make: Callable[[torch.device], Case]


def patch(device: torch.device) -> tuple[Tensor, Tensor]:
    """Image and label of a patch that is all organ."""
    image = torch.full((1, 1, *PATCH_VOX), 100.0, device=device)
    return image, torch.ones_like(image, dtype=torch.uint8)


def plans(size_class: str, device: torch.device) -> tuple[TumorSynthesizer, Iterator[TumorPlan]]:
    """A synthesizer of one size class, and its plans of uid 0 and on."""
    chosen = tuple(float(name == size_class) for name in SIZE_CLASSES)
    synth = TumorSynthesizer(prob=1.0, seed=SEED, backend="torch", class_prob=chosen)
    image, label = patch(device)
    return synth, (synth.plan(image, label, SPACING_MM, uid=torch.tensor([uid])) for uid in count())


def synthesis(size_class: str) -> Callable[[torch.device], Case]:
    """Plan and render, a fresh uid each time."""

    def make(device: torch.device) -> Case:
        image, label = patch(device)
        synth, fresh = plans(size_class, device)
        return Case(lambda: synth.render(image, label, next(fresh)), 2 * image.nbytes + 2 * label.nbytes + 2 * label.numel())

    return make


def _rng(device: torch.device) -> Case:
    index = torch.arange(1 << 17, device=device)[None]
    uid = torch.zeros(1, dtype=torch.int64, device=device)
    return Case(lambda: rng.halfwords(SEED, uid, rng.Purpose.SALT, index), 16 * index.numel())


def _plan(device: torch.device) -> Case:
    preset = presets.get("liver-hu2022")
    table, slots = parameter_table(preset, 0.9, device), slots_of(preset)
    uid = torch.zeros(1, dtype=torch.int64, device=device)
    return Case(lambda: plan.draw(*table, slots, SEED, uid), 4 * sum(slots) * 60)


def _placement(device: torch.device) -> Case:
    organ = torch.ones(1, *PATCH_VOX, dtype=torch.bool, device=device)
    word = rng.words(SEED, torch.zeros(1, dtype=torch.int64, device=device), rng.Purpose.LESION, 28, 2)
    extent = torch.tensor((0.3, 0.7), device=device)
    return Case(lambda: placement.place(organ, word, (2, 2, 2), extent), organ.nbytes)


def _shape(device: torch.device) -> Case:
    _, fresh = plans("mix", device)
    drawn = next(fresh)
    organ = torch.ones(1, *PATCH_VOX, dtype=torch.bool, device=device)
    vox = drawn.shapes_vox()
    return Case(lambda: shape.instance_map(drawn.centre_vox, *vox, drawn.active, organ), 3 * organ.numel())


def _gaussian(device: torch.device) -> Case:
    field = torch.rand(1, *PATCH_VOX, device=device)
    sigma = torch.full((1, 3), 4.0, device=device)
    return Case(lambda: gaussian.gaussian(field, sigma, (4.0, 4.0, 4.0)), 2 * field.nbytes)


def _texture(device: torch.device) -> Case:
    _, fresh = plans("large", device)
    drawn = next(fresh)
    field, norm = drawn.texture_field()
    i, j, k = ((0, n) for n in PATCH_VOX)
    return Case(lambda: texture.texture(field, norm, drawn.texture_gain, (i, j, k)), 4 * 96**3)


def _blend(device: torch.device) -> Case:
    image, label = (tensor[:, 0] for tensor in patch(device))
    occupancy, grain = torch.rand_like(image), torch.rand_like(image)
    contrast = torch.full((1,), -100.0, device=device)
    return Case(lambda: blend.blend(image, label == 1, occupancy, grain, contrast), 4 * image.nbytes + label.nbytes)


OPERATIONS = (
    Operation("rng", "131 072 Philox blocks", _rng),
    Operation("plan", "1 scan, 28 slots", _plan),
    Operation("placement", "96³, 28 slots", _placement),
    Operation("shape", "96³, class mix", _shape),
    Operation("gaussian", "96³, σ 4 voxels", _gaussian),
    Operation("texture", "96³, fresh", _texture),
    Operation("blend", "96³", _blend),
    *(Operation(f"synthesis-{name}", "96³, all organ, plan and render", synthesis(name)) for name in SIZE_CLASSES),
)

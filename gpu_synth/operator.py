"""Plan and render in one go: at once, from a CUDA graph, or as the one torch operator that a compiled model sees."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpu_synth.kernels._launch import resolve
from gpu_synth.kernels.plan import tally
from gpu_synth.lesion_model import composite_lesions, render_lesions
from gpu_synth.lesion_plan import LesionPlan
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.plan import TumorPlan
from gpu_synth.plan_base import Plan, Spacing
from gpu_synth.presets import Preset
from gpu_synth.render import Lesions, Render, composite, lesions_of, render

if TYPE_CHECKING:
    from gpu_synth.synthesizer import TumorSynthesizer

Made = tuple[Tensor, Tensor, Tensor]  # image, label, and how many lesions were made and samples skipped


def synthesize(synth: "TumorSynthesizer", image: Tensor, label: Tensor, spacing: tuple[Spacing, ...], uid: Tensor) -> Made:
    """Do what `TumorSynthesizer.forward` does, arguments unchecked, nothing counted."""
    if torch.compiler.is_compiling():
        flat = [length for triple in spacing for length in triple]
        new: Made = torch.ops.gpu_synth.synthesize(image, label, uid, flat, synth.seed, synth.recipe)
        return new
    return _synthesize(synth, image, label, spacing, uid)


@torch.no_grad()
def _synthesize(synth: "TumorSynthesizer", image: Tensor, label: Tensor, spacing: tuple[Spacing, ...], uid: Tensor) -> Made:
    image, label, backend = image.as_subclass(Tensor), label.as_subclass(Tensor), resolve(synth.backend, image.device)
    replays, labels = synth.replays if backend == "cupy" else None, (synth.organ_label, synth.tumor_label)
    if isinstance(synth.preset, LesionPreset):

        def make_all(image: Tensor, label: Tensor, uid: Tensor, donated: bool = False) -> Made:
            drawn = synth.sample_plan(image, label, spacing, uid)
            assert isinstance(drawn, LesionPlan)
            image, label = composite_lesions(image, label, drawn, (0, 0, 0), *labels, backend, donated=donated)
            return image, label, tally(drawn.active, drawn.skipped, backend)

        if replays is None:
            return make_all(image, label, uid)
        made = replays(partial(make_all, donated=True), (image, label, uid), spacing, synth.seed)
        return make_all(image, label, uid) if made is None else (made[0].clone(), made[1].clone(), made[2].clone())

    def make(label: Tensor, uid: Tensor) -> tuple[TumorPlan, list[Lesions]]:
        plan = synth.sample_plan(image, label, spacing, uid)
        assert isinstance(plan, TumorPlan)
        return plan, lesions_of(label, plan, (0, 0, 0), synth.organ_label, backend)

    # plan and lesions of the published method depend on labels and uids alone: images are blended after the replay, and need no buffer
    made_once = replays and replays(make, (label, uid), spacing, synth.seed)
    plan, lesions = made_once or make(label, uid)
    image, label = composite(image, label, lesions, *labels, backend)
    return image, label, tally(plan.active, plan.skipped, backend)


def render_plan(synth: "TumorSynthesizer", image: Tensor, label: Tensor, plan: Plan, origin_vox: Sequence[int]) -> Render:
    """Render a plan of either kind, arguments unchecked."""
    rest = (origin_vox, synth.organ_label, synth.tumor_label, resolve(synth.backend, image.device))
    if isinstance(plan, LesionPlan):
        return render_lesions(image, label, plan, *rest)
    assert isinstance(plan, TumorPlan)
    return render(image, label, plan, *rest)


# A compiler's own CUDA graph leaves it out: tables that it had captured could leave their caches, see `kernels._cached`. (torch 2.11 takes
# no single tag.)
@torch.library.custom_op("gpu_synth::synthesize", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _operator(image: Tensor, label: Tensor, uid: Tensor, spacing_mm: list[float], seed: int, recipe: str) -> tuple[Tensor, Tensor, Tensor]:
    """Put tumours into a batch. One operator, coarse on purpose: each call of one costs microseconds.

    Args:
        image: Healthy CT `(b, 1, i, j, k)`, HU.
        label: Its labels.
        uid: Ordinals of the samples.
        spacing_mm: Three numbers a sample, one sample after the other.
        seed: The run's seed.
        recipe: `TumorSynthesizer.recipe`.
    """
    synth = _synthesizer(recipe)
    synth.seed = seed
    spacing = tuple(zip(spacing_mm[::3], spacing_mm[1::3], spacing_mm[2::3], strict=True))
    return _synthesize(synth, image, label, spacing, uid)


@_operator.register_fake
def _(image: Tensor, label: Tensor, uid: Tensor, spacing_mm: list[float], seed: int, recipe: str) -> Made:
    new_image, new_label = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (image, label))
    return new_image, new_label, uid.new_empty(2)


def recipe_of(synth: "TumorSynthesizer") -> str:
    """What makes another synthesizer like this one, but for its seed: a constant to the compiler."""
    options = {name: getattr(synth, name) for name in ("prob", "backend", "scope", "organ_label", "tumor_label")}
    return json.dumps({"preset": asdict(synth.preset), **options})


@lru_cache(maxsize=16)
def _synthesizer(recipe: str) -> "TumorSynthesizer":
    from gpu_synth.synthesizer import TumorSynthesizer

    options = json.loads(recipe)
    figures = options.pop("preset")
    kind = LesionPreset if "kinds" in figures else Preset
    return TumorSynthesizer(kind(**figures), **options)

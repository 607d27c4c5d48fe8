"""A Swin UNETR in training: what share of its step is synthesis, and the model that the end-to-end rows feed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_synth.bench.case import SPACING_MM, Case, NoColumns, Setting, patches
from gpu_synth.bench.settings import CUDA_MODEL
from gpu_synth.bench.synthesis import synthesizer
from gpu_synth.bench.timing import one_ahead
from gpu_synth.trainers.augment import window
from gpu_synth.trainers.module import SegmentationModule
from gpu_synth.trainers.step import SynthesisStep

WINDOW_HU = (-21.0, 189.0)


def trainer(device: torch.device, setting: Setting) -> Callable[[Tensor, Tensor], None]:
    """One step of training on a batch: window, forward, loss, backward, AdamW. It waits for the step before, as a logged loss would."""
    module = SegmentationModule("tiny", setting.whole_vox).to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=4e-4, weight_decay=1e-5)
    precision = torch.bfloat16 if setting.model == CUDA_MODEL else torch.float32
    wait = one_ahead(device)

    def step(image_hu: Tensor, label: Tensor) -> None:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss: Tensor = module.loss(module(window(image_hu, WINDOW_HU)), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()

    return step


class _Share(NoColumns):
    """Synthesis's own time in the steps since warm-up."""

    def __init__(self, synthesis: SynthesisStep) -> None:
        self.synthesis, self.before = synthesis, 0.0

    def started(self) -> None:
        self.before = self.synthesis.seconds()

    def columns(self, total_ms: float) -> dict[str, Any]:
        return {"share": 1000 * (self.synthesis.seconds() - self.before) / total_ms}


def step_share(device: torch.device, setting: Setting) -> Case:
    """Steps that synthesise their own batch from healthy patches on the device."""
    healthy = patches(device, setting)
    step, synthesis = trainer(device, setting), SynthesisStep(synthesizer(setting))

    def run() -> None:
        image, label = synthesis(*healthy, SPACING_MM)
        step(image, label)

    return Case(run, loop=True, warm_up=10 if device.type == "cuda" else 1, watch=_Share(synthesis))

"""A trainer as a user would derive one: few and short epochs. It keeps what the network saw, for the test to look at."""

import os
from pathlib import Path
from typing import Any

import torch

from gpu_synth.trainers.nnunet.nnUNetTrainerTumorSynth import CUDA, nnUNetTrainerTumorSynth


class nnUNetTrainerFewSteps(nnUNetTrainerTumorSynth):  # type: ignore[misc]
    """Two training steps and one of validation an epoch."""

    synthesis = {"prob": 1.0}  # noqa: RUF012

    def __init__(self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: torch.device = CUDA) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = int(os.environ["EPOCHS"]), 2, 1
        self.seen: list[dict[str, Any]] = []

    def initialize(self) -> None:
        super().initialize()
        self.network.register_forward_pre_hook(lambda _, inputs: self.seen[-1].update(image=inputs[0].clone()) if self.seen else None)

    def synthesized(self, batch: dict[str, Any]) -> dict[str, Any]:
        before, first = _kept(batch), self.next_uid
        out = super().synthesized(batch)
        self.seen.append({"training": True, "uid": (first, self.next_uid), "before": before, "after": _kept(out)})
        return out

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.seen.append({"training": False, "before": _kept(batch)})
        return super().validation_step(batch)  # type: ignore[no-any-return]

    def on_train_end(self) -> None:
        super().on_train_end()
        torch.save(self.seen, Path(self.output_folder) / f"seen_{self.num_epochs}.pt")
        self.seen = []


def _kept(batch: dict[str, Any]) -> dict[str, Any]:
    """Copies of a batch's image and targets, which training may alter."""
    targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
    return {"image": batch["data"].clone(), "target": [target.clone() for target in targets]}

"""What makes a training the same to the last bit wherever it was stopped, and shows that it is."""

from hashlib import sha256
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.random import SeedSequence
from torch import Tensor


class SeedSteps(pl.Callback):
    """Seed torch before every training batch, by the data module's seed, the batch's place in the run, and the process.

    What a network draws, such as dropout, is then a function of the step: a run that goes on draws what the first would have, on any
    number of processes, each its own, and no checkpoint needs to hold generators. Synthesis draws nothing from them.
    """

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed."""
        seed = getattr(trainer.datamodule, "seed", 0)  # type: ignore[attr-defined]
        key = (seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(SeedSequence(key).generate_state(1, "uint64")[0]))


class SameOnAllRanks(pl.Callback):
    """Refuse to train where processes differ in where they begin; tell the digest of the weights, and where they differ at the end."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare steps.

        Raises:
            ValueError: They differ.
        """
        steps = _of_all(pl_module, trainer.global_step)
        if len(set(steps)) > 1:
            raise ValueError(f"ckpt_path must be one checkpoint for all processes, got steps {steps}; name the file instead of 'last'")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare weights.

        Raises:
            RuntimeError: They differ.
        """
        digest = weights_digest(pl_module)
        all_digests = _of_all(pl_module, int(digest[:15], 16))
        if len(set(all_digests)) > 1:
            raise RuntimeError(f"weights must be the same on all processes, got {len(set(all_digests))} different ones; do not use them")
        rank_zero_only(print)(f"gpu-synth: step {trainer.global_step}, weights {digest[:15]} on {len(all_digests)} process(es)")


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, names included."""
    digest = sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _of_all(pl_module: pl.LightningModule, value: int) -> list[int]:
    """A number of each process."""
    gathered = pl_module.all_gather(torch.tensor(value, dtype=torch.int64, device=pl_module.device))
    assert isinstance(gathered, Tensor)
    return [int(x) for x in gathered.reshape(-1)]

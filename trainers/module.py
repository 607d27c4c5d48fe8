"""Swin UNETR learning organ and tumour: loss, optimiser, sliding-window validation, prediction on the scan's own grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import compute_dice
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torchmetrics import MeanMetric

from gpu_synth.evaluate.pairing import PROBABILITIES
from gpu_synth.evaluate.postprocess import keep_near_organ
from gpu_synth.grids import to_native, values_to_native
from gpu_synth.volumes import save_nifti

FEATURE_SIZE = {"tiny": 12, "small": 24, "base": 48}
CLASSES = 3  # background, organ, tumour
STRIDE_VOX = 32  # what Swin UNETR's five halvings divide by


class SegmentationModule(pl.LightningModule):
    """Segment organ and tumour with MONAI's Swin UNETR.

    Args:
        size: "tiny", "small" or "base".
        patch_vox: Patch shape, in training and in the sliding window: multiples of 32, and not 32 in all three axes.
        lr: Highest learning rate of AdamW.
        weight_decay: Its weight decay.
        warmup_share: Share of all steps over which the learning rate rises, before it falls along a cosine.
        overlap: Overlap of sliding windows.
        predict_dir: Where `predict` writes its segmentations.
        probabilities: Whether it writes the tumour's probabilities too, into the folder `probabilities` there: `gpu-synth evaluate` makes
            a FROC of them.
        ema_decay: Decay, a step, of an exponential moving average of the weights, by which validation and `test` then go, such as 0.999;
            null: none.
        gradient_checkpointing: Compute the encoder's activations again in the backward pass rather than keep them.
        network: Another network in place of Swin UNETR, with one channel in and three classes out; `size`, `gradient_checkpointing` and
            what patches Swin UNETR asks for are then of no account.

    Raises:
        ValueError: The size is unknown, or the network cannot work on such patches.

    Source: Hu et al. 2022; facts on training: Dice + cross-entropy (softmax, squared prediction), AdamW, warm-up and cosine.
    """

    def __init__(
        self,
        size: Literal["tiny", "small", "base"] = "tiny",
        patch_vox: Sequence[int] = (96, 96, 96),
        lr: float = 4e-4,
        weight_decay: float = 1e-5,
        warmup_share: float = 0.025,
        overlap: float = 0.5,
        predict_dir: str = "predictions",
        probabilities: bool = True,
        ema_decay: float | None = None,
        gradient_checkpointing: bool = False,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if size not in FEATURE_SIZE:
            raise ValueError(f"size must be one of {', '.join(FEATURE_SIZE)}, got {size!r}")
        fits = len(patch_vox) == 3 and all(n > 0 and n % STRIDE_VOX == 0 for n in patch_vox) and max(patch_vox) > STRIDE_VOX
        if network is None and not fits:
            raise ValueError(
                f"patch_vox must be three multiples of {STRIDE_VOX}, one of them above it, got {list(patch_vox)}; try [64, 64, 32]"
            )
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must be at least 0 and below 1, got {overlap}; 0.5 is usual")
        if not (lr > 0 and weight_decay >= 0):
            raise ValueError(f"lr must be above 0 and weight_decay 0 or more, got {lr} and {weight_decay}")
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, got {ema_decay}; 0.999 is usual")
        self.save_hyperparameters(ignore="network")
        self.patch_vox = tuple(patch_vox)
        self.lr, self.weight_decay, self.warmup_share = lr, weight_decay, warmup_share
        self.overlap, self.predict_dir, self.probabilities = overlap, Path(predict_dir), probabilities
        self.ema_decay = ema_decay
        swin = {"feature_size": FEATURE_SIZE[size], "use_checkpoint": gradient_checkpointing}
        self.network = SwinUNETR(1, CLASSES, **swin) if network is None else network
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True)
        self.soft_loss = DiceCELoss(softmax=True, squared_pred=True)  # of a share for each class
        self.scores = nn.ModuleDict({name: MeanMetric() for name in ("dsc_organ", "dsc_tumor", "dsc_tumor_empty")})

    def forward(self, image: Float[Tensor, "b 1 i j k"]) -> Float[Tensor, "b 3 i j k"]:
        """Logits of a patch, windowed to [0, 1]."""
        logits: Tensor = self.network(image)
        return logits

    def segment(self, image: Float[Tensor, "1 1 i j k"], spacing_mm: Sequence[float]) -> Tensor:
        """Class of each voxel of a whole scan, uint8: the organ's largest component, and tumours near it (see `keep_near_organ`)."""
        return _classes(self.infer(image), spacing_mm)

    def infer(self, image: Float[Tensor, "1 1 i j k"]) -> Float[Tensor, "1 3 i j k"]:
        """Logits of a whole scan, by Gaussian-weighted sliding windows.

        Source: Hu et al. 2022; facts on training: overlap 0.5 to 0.75.
        """
        return torch.as_tensor(sliding_window_inference(image, self.patch_vox, 1, self.network, overlap=self.overlap, mode="gaussian"))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch of patches."""
        logits, label = self(batch["image"]), batch["label"]
        soft = "occupancy" in batch
        loss: Tensor = self.soft_loss(logits, soft_target(label, batch["occupancy"])) if soft else self.loss(logits, label)
        self.log("train/loss", self._mean_where_logged(loss.detach()), prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def _mean_where_logged(self, loss: Tensor) -> Tensor:
        """The mean over processes at steps that are logged; elsewhere this one's own, as to ask for it makes the host wait."""
        trainer = self.trainer
        logged = (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % trainer.log_every_n_steps == 0  # type: ignore[attr-defined] # set in its constructor
        return torch.as_tensor(trainer.strategy.reduce(loss, reduce_op="mean")) if logged and trainer.world_size > 1 else loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score a whole scan."""
        self._score(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score a whole scan."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the means over scans."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over scans."""
        self._log_scores("test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> str:
        """Segment a scan and write it, and the tumour's probabilities, as NIfTI on the grid of its file; return the path."""
        logits, affine, source = self.infer(batch["image"]), batch["affine"][0], batch["path"][0]
        native = to_native(_classes(logits, batch["spacing_mm"][0])[0, 0].cpu().numpy(), affine, source)
        target = self.predict_dir / f"{batch['name'][0]}_seg.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        save_nifti(target, native.data, native.affine)
        if self.probabilities:
            tumor = values_to_native(logits[0].float().softmax(0)[-1].cpu().numpy(), affine, source)
            (self.predict_dir / PROBABILITIES).mkdir(exist_ok=True)
            save_nifti(self.predict_dir / PROBABILITIES / target.name, tumor.data.round(3), tumor.affine)  # packs well
        return str(target)

    def on_predict_end(self) -> None:
        """Say where the segmentations are."""
        self.print(f"segmentations in {self.predict_dir}: gpu-synth evaluate --predictions {self.predict_dir} --references DIR --out DIR")

    def configure_callbacks(self) -> Sequence[Callback]:
        """Average the weights, if asked to; what Swin UNETR has of buffers are constants."""
        fits = self.trainer.state.fn == TrainerFn.FITTING
        return [EMAWeightAveraging(decay=self.ema_decay, use_buffers=False)] if fits and self.ema_decay is not None else []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to train on from an average without its weights, or the other way round.

        Raises:
            ValueError: The checkpoint is from a training with an average and this one has none, or the other way round.
        """
        averaged = "current_model_state" in checkpoint
        if self.trainer.state.fn == TrainerFn.FITTING and averaged != (self.ema_decay is not None):
            mend = "give the same as the training that wrote it" if averaged else "leave it out"
            raise ValueError(
                f"model.ema_decay must be {'given' if averaged else 'null'}, as for this checkpoint, got {self.ema_decay}; {mend}"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; linear warm-up, then a cosine to zero, a step at a time."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        steps = max(2, int(self.trainer.estimated_stepping_batches))
        warmup = min(max(1, round(self.warmup_share * steps)), steps - 1)
        rise = LinearLR(optimizer, start_factor=1.0 / (warmup + 1), total_iters=warmup)
        schedule = SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, T_max=steps - warmup)], milestones=[warmup])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _score(self, batch: dict[str, Any]) -> None:
        """Add a scan's DSC: the organ with its tumours; the tumours, apart where there are none (1 if none are predicted, else 0)."""
        predicted, label = self.segment(batch["image"], batch["spacing_mm"][0]), batch["label"]
        if any(batch.get("repeated", ())):  # another process scores it; this one takes part in what all do together
            return
        for name, least in (("dsc_organ", 1), ("dsc_tumor", 2)):
            present = bool((label >= least).any())
            dsc = compute_dice((predicted >= least).float(), (label >= least).float(), ignore_empty=False)
            if present or name == "dsc_tumor":
                self._add(name if present else "dsc_tumor_empty", float(dsc), 1.0)

    def _log_scores(self, stage: str) -> None:
        for name in self.scores:
            self._add(name, 0.0, 0.0)  # so that every rank takes part, whatever its scans held
            metric = self._metric(name)
            if (mean := metric.compute()).isfinite() or name == "dsc_tumor":  # by which the best weights are kept: NaN where none was held
                self.log(f"{stage}/{name}", mean, prog_bar=name != "dsc_tumor_empty")
            with torch.inference_mode(False):
                metric.reset()

    @torch.inference_mode(False)  # Lightning validates in that mode, and what was made in it cannot be added to outside
    def _add(self, name: str, value: float, weight: float) -> None:
        self._metric(name).update(value, weight)

    def _metric(self, name: str) -> MeanMetric:
        metric = self.scores[name]
        assert isinstance(metric, MeanMetric)
        return metric


def soft_target(label: Tensor, occupancy: Float[Tensor, "b 1 i j k"]) -> Float[Tensor, "b 3 i j k"]:
    """Share of each voxel that is background, organ and tumour, where `occupancy` is the lesions' share.

    Args:
        label: 0 background, 1 organ, 2 tumour, `(b, 1, i, j, k)`; tells where the organ ends.
        occupancy: Share of each voxel that is lesion, in [0, 1].
    """
    inside = (label > 0).to(occupancy.dtype)
    tumor = occupancy * inside
    return torch.cat((1.0 - inside, inside - tumor, tumor), 1)


def _classes(logits: Float[Tensor, "1 3 i j k"], spacing_mm: Sequence[float]) -> Tensor:
    """Most likely class of each voxel of a scan, post-processed."""
    classes = logits.argmax(1, keepdim=True).to(torch.uint8)
    return torch.from_numpy(keep_near_organ(classes[0, 0].cpu().numpy(), spacing_mm))[None, None].to(classes.device)

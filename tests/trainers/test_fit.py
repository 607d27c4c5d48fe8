"""Checkpoints: the best by validation, the last of every epoch, and a run that goes on from either as if it had never stopped."""

import lightning.pytorch as pl
import pytest
import torch
from tiny_training import Recorder, data_of, trainer_of

from gpu_synth.trainers.checkpoint import LastCheckpoint
from gpu_synth.trainers.fit import best_checkpoint

SCORES = {1: 0.2, 3: 0.6, 5: 0.4}  # by epoch: every second is validated


class Scored(Recorder):
    """Its tumour DSC is known beforehand."""

    def on_validation_epoch_end(self):
        self.log("val/dsc_tumor", SCORES[self.current_epoch])


class Kill(pl.Callback):
    """Die before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


def fit(folder, data, callbacks=(), ckpt_path=None):
    """Six epochs of four steps; the checkpoints lie in checkpoints/."""
    module = Scored()
    keep = [*callbacks, best_checkpoint(), LastCheckpoint()]
    trainer = trainer_of(folder, max_epochs=6, check_val_every_n_epoch=2, enable_checkpointing=True, callbacks=keep)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module


def epochs(folder) -> dict[str, int]:
    return {path.name: torch.load(path, weights_only=True)["epoch"] for path in (folder / "checkpoints").iterdir()}


def test_the_best_and_the_last_weights_are_kept(cache, tmp_path):
    fit(tmp_path, data_of(cache))
    assert epochs(tmp_path) == {"best.ckpt": 3, "last.ckpt": 5}


@pytest.mark.parametrize(("killed_at", "kept"), [(2, {}), (6, {"last.ckpt": 0}), (18, {"best.ckpt": 3, "last.ckpt": 3})])
def test_a_crash_loses_the_epoch_it_comes_in(cache, tmp_path, killed_at, kept):
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, data_of(cache), [Kill(killed_at)])
    assert (epochs(tmp_path) if kept else {}) == kept


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("name", "killed_at", "epoch"), [("last.ckpt", 10, 2), ("last.ckpt", 19, 4), ("best.ckpt", 19, 4)])
def test_a_run_goes_on_from_either_as_if_it_had_never_stopped(cache, tmp_path, name, killed_at, epoch):
    whole = fit(tmp_path / "whole", data_of(cache))
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "killed", data_of(cache), [Kill(killed_at)])
    resumed = fit(tmp_path / "resumed", data_of(cache), ckpt_path=tmp_path / "killed" / "checkpoints" / name)
    assert len(resumed.seen) == (6 - epoch) * 4
    for a, b in zip(resumed.seen, whole.seen[4 * epoch :], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label", "uid"))
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert epochs(tmp_path / "resumed")["last.ckpt"] == 5

"""Options that save memory or time: what they promise of results and of checkpoints, and what is refused."""

import pytest
import torch
from fit_runs import Small, Steady, fit, losses, same_weights, stored
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny_training import trainer_of

from gpu_synth.cli import main
from gpu_synth.trainers.checkpoint import LastCheckpoint, WholeCheckpointIO, newest_checkpoint
from gpu_synth.trainers.module import SegmentationModule

PATCH_VOX = (64, 32, 32)


def test_gradient_checkpointing_changes_no_gradient():
    image, gradients = torch.rand(1, 1, *PATCH_VOX, generator=torch.Generator().manual_seed(0)), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = SegmentationModule(patch_vox=PATCH_VOX, gradient_checkpointing=checkpointing)
        module(image).square().mean().backward()
        gradients.append([p.grad for p in module.network.parameters() if p.grad is not None])
    assert module.network.swinViT.layers1[0].use_checkpoint
    assert len(gradients[0]) == len(gradients[1]) > 100
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_validation_and_checkpoint_take_the_averaged_weights(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_synth.trainers.module.SwinUNETR", Steady)
    validated, step = [], SegmentationModule.validation_step

    def validation_step(self, batch, batch_idx):
        validated.append(_weight(self.state_dict()))
        step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "validation_step", validation_step)
    assert fit(cache, tmp_path, model__ema_decay=0.5, trainer__max_epochs=1) == 0
    checkpoint = stored(tmp_path, "last")
    average, current = _weight(checkpoint["state_dict"]), _weight(checkpoint["current_model_state"])
    assert torch.equal(validated[0], average)
    assert not torch.equal(average, current)


def _weight(state):
    return state["network.layers.0.weight"].clone()


def test_an_average_is_neither_lost_nor_made_up(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_synth.trainers.module.SwinUNETR", Small)
    for mine, theirs in ((0.9, None), (None, 0.9)):
        folder = tmp_path / str(mine)
        assert fit(cache, folder, {"batch": 1}, model__ema_decay=mine) == 143
        with pytest.raises(ValueError, match=r"model.ema_decay must be (given|null), as for this checkpoint"):
            fit(cache, folder, model__ema_decay=theirs, ckpt_path="last")
    assert not any(isinstance(x, EMAWeightAveraging) for x in trainer_of(tmp_path).callbacks)


def test_a_compiled_run_has_the_names_and_the_samples_of_another_and_goes_on_as_either(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_synth.trainers.module.SwinUNETR", Steady)
    more = {"trainer__max_epochs": 1, "trainer__limit_val_batches": 0, "data__samples_per_epoch": 4}
    for name, compiled in (("eager", "false"), ("compiled", "true"), ("halves", "true")):
        stop = {"batch": 1} if name == "halves" else None
        assert fit(cache, tmp_path / name, stop, compile=compiled, **more) == (143 if stop else 0)
    eager, compiled = (stored(tmp_path / name, "last")["state_dict"] for name in ("eager", "compiled"))
    assert eager.keys() == compiled.keys()
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)
    assert fit(cache, tmp_path / "halves", ckpt_path="last", compile="true", **more) == 0
    assert losses(tmp_path / "halves") == losses(tmp_path / "compiled")
    assert same_weights(stored(tmp_path / "halves", "last"), stored(tmp_path / "compiled", "last"))


def test_last_passes_over_what_is_not_whole_and_says_so(tmp_path):
    runs = [tmp_path / f"{folder}/checkpoints/last.ckpt" for folder in ("version_0", "name_of_a_logger/version_0", "version_2")]
    for step, path in enumerate(runs):
        WholeCheckpointIO().save_checkpoint({"epoch": 0, "global_step": step}, path)
    runs[2].write_bytes(runs[2].read_bytes()[:200])
    found, refused = newest_checkpoint(tmp_path)
    assert found.step == 1
    assert found.path == runs[1]
    assert len(refused) == 1
    assert f"ckpt_path must be a whole checkpoint, got {runs[2]}: " in refused[0]
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])


def test_what_cannot_be_saved_leaves_the_checkpoint_before_it(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        WholeCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(1000), "lambda": (x for x in ())}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["fit", "--ckpt_path", "half.ckpt"], "ckpt_path must be a whole checkpoint, got half.ckpt: "),
        (["predict", "--ckpt_path", "last"], "ckpt_path must name a checkpoint, got 'last', and there is none in runs; set trainer."),
        (["test"], "ckpt_path must be a checkpoint of gpu-synth fit, got None"),
        (["fit", "--trainer.limit_train_batches", "4"], "limit_train_batches must be 1.0 and overfit_batches 0, got 4; shorten"),
        (["fit", "--model.ema_decay", "1.5"], "ema_decay must be between 0 and 1, got 1.5"),
        (["fit", "--checkpoint.every_minutes", "0"], "every_minutes must be above 0 and every_steps at least 0, got 0.0 and 0"),
    ],
    ids=["half", "none", "random", "limit", "decay", "minutes"],
)
def test_mistakes_are_one_line(cache, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.ckpt").write_bytes(b"PK\x03\x04 and no more")
    assert main([*options, f"--data.data_dir={cache}"]) == 2
    assert says in capsys.readouterr().err


def test_defaults_of_the_checkpoint_are_ten_minutes():
    assert (LastCheckpoint().every_minutes, LastCheckpoint().every_steps) == (10.0, 0)

"""The callback: tumours in a module that knows nothing of them; and the monitor that tells what they cost."""

import csv
from contextlib import suppress

import lightning.pytorch as pl
import pytest
import torch
from fit_runs import Stop
from lightning.pytorch.loggers import CSVLogger
from tiny_training import Recorder, data_of, trainer_of
from torch.utils.data import DataLoader, Dataset

from gpu_synth import TumorSynthesizer
from gpu_synth.trainers.callback import SynthesizeTumors
from gpu_synth.trainers.checkpoint import LastCheckpoint
from gpu_synth.trainers.exact import SeedSteps
from gpu_synth.trainers.intensity import Window
from gpu_synth.trainers.monitor import SynthesisMonitor

SHAPE = (32, 32, 24)


class Foreign(Dataset):
    """Somebody else's data: all organ, as dicts or tuples, in HU or scaled."""

    def __init__(self, kind=dict, scaled=False, spacing_mm=(1.0, 1.0, 1.0)):
        self.kind, self.scaled, self.spacing_mm = kind, scaled, spacing_mm

    def __len__(self):
        return 8

    def __getitem__(self, n):
        image = torch.full((1, *SHAPE), 100.0)
        image = (image + 21) / 210 if self.scaled else image
        sample = {"image": image, "label": torch.ones(1, *SHAPE, dtype=torch.uint8), "spacing_mm": self.spacing_mm}
        return sample if self.kind is dict else tuple(sample.values())


def fit(tmp_path, callback, data, module=None, **options):
    module = module or Recorder()
    trainer = trainer_of(tmp_path, callbacks=[callback], limit_val_batches=0, **options)
    trainer.fit(module, DataLoader(data, batch_size=2))
    return module, trainer


def tumours(module) -> list[bool]:
    return [bool((batch["label"] == 2).any() and (batch["image"] < batch["image"].max()).any()) for batch in module.seen]


TUPLE = {"image_key": 0, "label_key": 1, "spacing_key": 2}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (dict, {}),
        (tuple, TUPLE),
        (tuple, {"image_key": 0, "label_key": -2, "spacing_mm": (1.0, 1.0, 1.0)}),
    ],
    ids=["dict", "tuple", "fixed-spacing"],
)
def test_a_foreign_module_trains_on_tumours(tmp_path, kind, options):
    module, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer("liver-hu2022", prob=1.0), **options), Foreign(kind))
    assert tumours(module) == [True] * 4


class OnDevice(Recorder):
    """All of the batch goes to a device that the host cannot read: here the spacing alone, to where there are no values."""

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        moved = {key: _to_meta(value) for key, value in (batch.items() if isinstance(batch, dict) else enumerate(batch)) if key in SPACING}
        return {**batch, **moved} if isinstance(batch, dict) else [moved.get(n, value) for n, value in enumerate(batch)]


SPACING = ("spacing_mm", 2)


def _to_meta(value):
    return [x.to("meta") for x in value] if isinstance(value, list) else value.to("meta")


class OnDeviceData(pl.LightningDataModule):
    """The same, where the data module's hook wins."""

    transfer_batch_to_device = OnDevice.transfer_batch_to_device

    def train_dataloader(self):
        return DataLoader(Foreign(spacing_mm=ANISOTROPIC_MM), batch_size=2)


ANISOTROPIC_MM = (0.7, 0.8, 2.5)


@pytest.mark.parametrize("spacing_mm", [ANISOTROPIC_MM, torch.tensor(ANISOTROPIC_MM)], ids=["an axis", "a sample"])
@pytest.mark.parametrize("kind", [dict, tuple])
def test_spacing_is_read_before_the_batch_is_on_the_device(tmp_path, kind, spacing_mm):
    """A DataLoader makes three tensors of a triple, one an axis, and one of a tensor; both are moved before a callback's first hook."""
    keys = TUPLE if kind is tuple else {}
    given, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer(), **{**keys, "spacing_mm": ANISOTROPIC_MM}), Foreign(kind))
    callback = SynthesizeTumors(TumorSynthesizer(), **keys)
    moved, trainer = fit(tmp_path, callback, Foreign(kind, spacing_mm=spacing_mm), OnDevice())
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(given.seen, moved.seen, strict=True))
    assert any(tumours(moved))
    assert "batch_to_device" not in vars(trainer.strategy), "the trainer is as it was"


def test_spacing_is_read_where_the_data_modules_hook_moves_it(tmp_path):
    given, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer(), spacing_mm=ANISOTROPIC_MM), Foreign())
    module = Recorder()
    trainer_of(tmp_path, callbacks=[SynthesizeTumors(TumorSynthesizer())], limit_val_batches=0).fit(module, OnDeviceData())
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(given.seen, module.seen, strict=True))


def test_a_trainer_is_as_it_was_after_an_exception_too(tmp_path):
    trainer = trainer_of(tmp_path, callbacks=[SynthesizeTumors(TumorSynthesizer(), image_key="ct")], limit_val_batches=0)
    with pytest.raises(ValueError, match="batch must hold 'ct'"):
        trainer.fit(Recorder(), DataLoader(Foreign(), batch_size=2))
    assert "batch_to_device" not in vars(trainer.strategy)


def test_spacing_that_the_loader_has_on_the_device_is_refused(tmp_path):
    with pytest.raises(TypeError, match="spacing_mm must be host numbers, got a tensor on meta"):
        fit(tmp_path, SynthesizeTumors(TumorSynthesizer()), Foreign(spacing_mm=torch.ones(3, device="meta")), OnDevice())


def test_an_image_that_is_scaled_already_stays_scaled(tmp_path):
    plain, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer("liver-hu2022", prob=1.0)), Foreign())
    scaled, _ = fit(
        tmp_path, SynthesizeTumors(TumorSynthesizer("liver-hu2022", prob=1.0), intensity=Window(-21.0, 189.0)), Foreign(scaled=True)
    )
    for a, b in zip(plain.seen, scaled.seen, strict=True):
        assert torch.equal(a["label"], b["label"])
        torch.testing.assert_close(((a["image"] + 21) / 210).clamp(0, 1), b["image"], rtol=0, atol=1e-5)


def test_a_soft_label_goes_into_the_batch(tmp_path):
    module, shares = Recorder(), []
    module.on_train_batch_start = lambda batch, *_: shares.append((batch["share"].clone(), batch["label"] == 2))
    fit(tmp_path, SynthesizeTumors(TumorSynthesizer(prob=1.0), spacing_mm=ANISOTROPIC_MM, soft_key="share"), Foreign(), module)
    assert len(shares) == 4
    for share, tumour in shares:
        assert (share[tumour] >= 0.5 - 1e-4).all()
        assert (share[~tumour] <= 0.5 + 1e-4).all()
        assert ((share > 0) & (share < 0.4)).any()


def test_a_missing_key_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"batch must hold 'ct', got keys \['image', 'label', 'spacing_mm'\]"):
        fit(tmp_path, SynthesizeTumors(TumorSynthesizer(), image_key="ct"), Foreign())


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")  # every sample is like the other
def test_a_run_stopped_between_micro_batches_goes_on_with_the_tumours_to_come(tmp_path):
    """Workers read ahead: what was read but not trained on is not counted. The signal waits for the second micro-batch."""

    def run(folder, *callbacks, **options):
        callback, module = SynthesizeTumors(TumorSynthesizer("liver-hu2022", seed=2)), Recorder()
        keep = [*callbacks, callback, SeedSteps(), LastCheckpoint()]
        often = {"max_epochs": 2, "accumulate_grad_batches": 2, "limit_val_batches": 0, "enable_checkpointing": True}
        trainer = trainer_of(folder, callbacks=keep, **often)
        with suppress(SystemExit):
            trainer.fit(module, DataLoader(Foreign(), batch_size=1, num_workers=2, prefetch_factor=2), **options)
        return module, callback.step.synthesizer.get_extra_state()["counter"]

    whole, counter = run(tmp_path / "whole")
    assert counter == len(whole.seen) == 16
    first, counter = run(tmp_path / "halves", Stop(batch=2))
    assert counter == 5, "stopped before the fifth, when it was made already"
    last = tmp_path / "halves" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["callbacks"]["SynthesizeTumors"]["counter"] == len(first.seen) == 4
    second, _ = run(tmp_path / "halves", ckpt_path=last)
    assert [batch["label"].sum() for batch in first.seen + second.seen] == [batch["label"].sum() for batch in whole.seen]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first.seen + second.seen, whole.seen, strict=True))
    assert torch.equal(second.network.weight, whole.network.weight)


@pytest.mark.parametrize("recorder", [Recorder, OnDevice])
def test_a_resumed_run_goes_on_with_fresh_tumours(tmp_path, recorder):
    whole, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer("liver-hu2022", seed=2)), Foreign(), recorder(), max_epochs=2)
    first, trainer = fit(tmp_path, SynthesizeTumors(TumorSynthesizer("liver-hu2022", seed=2)), Foreign(), recorder())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    second = recorder()
    trainer = trainer_of(
        tmp_path, callbacks=[SynthesizeTumors(TumorSynthesizer("liver-hu2022", seed=77))], limit_val_batches=0, max_epochs=2
    )
    trainer.fit(second, DataLoader(Foreign(), batch_size=2), ckpt_path=tmp_path / "a.ckpt")
    assert len(first.seen) == len(second.seen) == 4
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(first.seen + second.seen, whole.seen, strict=True))
    assert not any(torch.equal(a["label"], b["label"]) for a, b in zip(first.seen, second.seen, strict=True))


@pytest.mark.parametrize("source", ["data module", "callback"])
def test_monitor_logs_what_was_made_and_what_it_cost(cache, tmp_path, source):
    logger, monitor = CSVLogger(tmp_path), SynthesisMonitor()
    options = {"limit_val_batches": 0, "logger": logger, "max_epochs": 2}
    if source == "callback":
        callback = SynthesizeTumors(TumorSynthesizer("liver-hu2022", prob=1.0))
        trainer_of(tmp_path, callbacks=[callback, monitor], **options).fit(Recorder(), DataLoader(Foreign(), batch_size=2))
        synthesizer = callback.step.synthesizer
    else:
        data = data_of(cache)
        trainer_of(tmp_path, callbacks=[monitor], **options).fit(Recorder(), data)
        synthesizer = data.synthesis.synthesizer
    logger.save()
    rows = [row for row in csv.DictReader((tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open()) if row["epoch"]]
    rows = [row for row in rows if row.get("synthesis/lesions_per_epoch")]
    assert sum(float(row["synthesis/lesions_per_epoch"]) for row in rows) == synthesizer.lesions == monitor.lesions > 0
    assert all(0.0 < float(row["synthesis/share_of_step_time"]) < 1.0 for row in rows)
    assert all(float(row["synthesis/lesions_per_second"]) > 1.0 for row in rows)
    pictures = sorted((tmp_path / "lightning_logs" / "version_0" / "synthesised").glob("*.png"))
    assert [picture.name for picture in pictures] == ["epoch0000.png", "epoch0001.png"]


def test_monitor_refuses_a_trainer_without_a_source_of_tumours(tmp_path):
    with pytest.raises(ValueError, match="trainer must have one source of tumours, got 0"):
        fit(tmp_path, SynthesisMonitor(), Foreign())

"""The callback: tumours in a module that knows nothing of them; and the monitor that tells what they cost."""

import csv

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_training import Recorder, data_of, trainer_of
from torch.utils.data import DataLoader, Dataset

from gpu_synth import TumorSynthesizer
from gpu_synth.trainers.callback import SynthesizeTumors
from gpu_synth.trainers.monitor import SynthesisMonitor

SHAPE = (32, 32, 24)


class Foreign(Dataset):
    """Somebody else's data: all organ, as dicts or tuples, in HU or scaled."""

    def __init__(self, kind=dict, scaled=False):
        self.kind, self.scaled = kind, scaled

    def __len__(self):
        return 8

    def __getitem__(self, n):
        image = torch.full((1, *SHAPE), 100.0)
        image = (image + 21) / 210 if self.scaled else image
        sample = {"image": image, "label": torch.ones(1, *SHAPE, dtype=torch.uint8), "spacing_mm": torch.ones(3)}
        return sample if self.kind is dict else tuple(sample.values())


def fit(tmp_path, callback, data, module=None, **options):
    module = module or Recorder()
    trainer = trainer_of(tmp_path, callbacks=[callback], limit_val_batches=0, **options)
    trainer.fit(module, DataLoader(data, batch_size=2))
    return module, trainer


def tumours(module) -> list[bool]:
    return [bool((batch["label"] == 2).any() and (batch["image"] < batch["image"].max()).any()) for batch in module.seen]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (dict, {}),
        (tuple, {"image_key": 0, "label_key": 1, "spacing_key": 2}),
        (tuple, {"image_key": 0, "label_key": -2, "spacing_mm": (1.0, 1.0, 1.0)}),
    ],
    ids=["dict", "tuple", "fixed-spacing"],
)
def test_a_foreign_module_trains_on_tumours(tmp_path, kind, options):
    module, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer(prob=1.0), **options), Foreign(kind))
    assert tumours(module) == [True] * 4


def test_an_image_that_is_scaled_already_stays_scaled(tmp_path):
    plain, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer(prob=1.0)), Foreign())
    scaled, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer(prob=1.0), window_hu=(-21.0, 189.0)), Foreign(scaled=True))
    for a, b in zip(plain.seen, scaled.seen, strict=True):
        assert torch.equal(a["label"], b["label"])
        torch.testing.assert_close(((a["image"] + 21) / 210).clamp(0, 1), b["image"], rtol=0, atol=1e-5)


def test_a_missing_key_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"batch must hold 'ct', got keys \['image', 'label', 'spacing_mm'\]"):
        fit(tmp_path, SynthesizeTumors(TumorSynthesizer(), image_key="ct"), Foreign())


def test_a_resumed_run_goes_on_with_fresh_tumours(tmp_path):
    whole, _ = fit(tmp_path, SynthesizeTumors(TumorSynthesizer(seed=2)), Foreign(), max_epochs=2)
    first, trainer = fit(tmp_path, SynthesizeTumors(TumorSynthesizer(seed=2)), Foreign())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    second = Recorder()
    trainer = trainer_of(tmp_path, callbacks=[SynthesizeTumors(TumorSynthesizer(seed=77))], limit_val_batches=0, max_epochs=2)
    trainer.fit(second, DataLoader(Foreign(), batch_size=2), ckpt_path=tmp_path / "a.ckpt")
    assert len(first.seen) == len(second.seen) == 4
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(first.seen + second.seen, whole.seen, strict=True))
    assert not any(torch.equal(a["label"], b["label"]) for a, b in zip(first.seen, second.seen, strict=True))


@pytest.mark.parametrize("source", ["data module", "callback"])
def test_monitor_logs_what_was_made_and_what_it_cost(cache, tmp_path, source):
    logger, monitor = CSVLogger(tmp_path), SynthesisMonitor()
    options = {"limit_val_batches": 0, "logger": logger, "max_epochs": 2}
    if source == "callback":
        callback = SynthesizeTumors(TumorSynthesizer(prob=1.0))
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

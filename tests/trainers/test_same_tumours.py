"""The same seed and uids, the same tumours: whichever trainer the engine is in."""

import pytest
import torch
import torchio as tio
from adapted import AFFINE, SPACING_MM, Watched, samples, scans, synthesizer
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from tiny_training import Recorder, trainer_of
from torch.utils.data import DataLoader

from gpu_synth.trainers.callback import SynthesizeTumors
from gpu_synth.trainers.intensity import Window, ZScore
from gpu_synth.trainers.monai import RandTumord, TumorPrepareBatch
from gpu_synth.trainers.torchio import Tumor


def plain():
    synth = synthesizer()
    return [synth(batch["image"], batch["label"], SPACING_MM) for batch in DataLoader(samples(), batch_size=2)]


def by_engine():
    network, made = Watched(), []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=MonaiLoader(Dataset(samples(meta=True)), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        prepare_batch=TumorPrepareBatch(synthesizer()),
        decollate=False,
    )
    trainer.add_event_handler(
        "ITERATION_COMPLETED", lambda engine: made.append((engine.state.output["image"], engine.state.output["label"]))
    )
    trainer.run()
    return made


def by_callback(tmp_path):
    module = Recorder()
    trainer = trainer_of(tmp_path, callbacks=[SynthesizeTumors(synthesizer())], limit_val_batches=0)
    trainer.fit(module, MonaiLoader(Dataset(samples(meta=True)), batch_size=2))
    return [(batch["image"], batch["label"]) for batch in module.seen]


def by_torchio():
    made = []
    for uid, (image, label) in enumerate(zip(*scans(), strict=True)):
        subject = tio.Subject(ct=tio.ScalarImage(tensor=image, affine=AFFINE), liver=tio.LabelMap(tensor=label, affine=AFFINE))
        subject = Tumor(synthesizer(), uid)(subject)
        made.append((subject["ct"].data[None], subject["liver"].data[None]))
    return made


def by_transform(monkeypatch):
    transform, made = RandTumord(("image", "label"), synthesizer()), []
    for uid, sample in enumerate(samples(meta=True)):
        monkeypatch.setattr(transform, "randomize", lambda uid=uid: setattr(transform, "uid", uid))
        altered = transform(sample)
        made.append((altered["image"][None], altered["label"][None]))
    return made


def joined(made):
    return [torch.cat([torch.as_tensor(pair[n]).as_subclass(torch.Tensor) for pair in made]) for n in (0, 1)]


def test_the_same_seed_and_uids_give_the_same_tumours_everywhere(tmp_path, monkeypatch):
    image, label = joined(plain())
    assert (label == 2).flatten(1).any(1).all()
    others = {
        "MONAI PrepareBatch": by_engine(),
        "Lightning callback": by_callback(tmp_path),
        "TorchIO": by_torchio(),
        "MONAI RandTumord": by_transform(monkeypatch),
    }
    for name, made in others.items():
        other_image, other_label = joined(made)
        assert torch.equal(label, other_label.to(label.dtype)), name
        assert torch.equal(image, other_image), name


@pytest.mark.parametrize("intensity", [Window(-1100.0, 1600.0), ZScore(50.0, 200.0)])
def test_so_they_are_where_the_data_are_scaled(intensity, tmp_path):
    """With nothing clipped; rounding on the way to HU and back remains."""
    image, label = joined(plain())
    scaled = [{**sample, "image": intensity.from_hu(sample["image"])} for sample in samples()]
    module = Recorder()
    callback = SynthesizeTumors(synthesizer(), spacing_mm=SPACING_MM, intensity=intensity)
    trainer_of(tmp_path, callbacks=[callback], limit_val_batches=0).fit(module, DataLoader(scaled, batch_size=2))
    other_image, other_label = joined([(batch["image"], batch["label"]) for batch in module.seen])
    assert (label != other_label).sum() <= 2
    torch.testing.assert_close(intensity.to_hu(other_image)[label == other_label], image[label == other_label], rtol=0, atol=0.05)

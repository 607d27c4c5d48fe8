"""MONAI: the transform in its pipelines and loaders, the batched form in its engine."""

import pickle
import sys

import numpy as np
import pytest
import torch
from adapted import AFFINE, SPACING_MM, Watched, all_differ, altered, samples, scans, synthesizer
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, ValidationHandler
from monai.losses import DiceCELoss
from monai.transforms import Compose, Flipd, ScaleIntensityRanged
from monai.utils import set_determinism
from torch.utils.data import DataLoader as TorchLoader

from gpu_synth.trainers.intensity import Window
from gpu_synth.trainers.monai import RandTumord, TumorPrepareBatch

KEYS = ("image", "label")


def rand_tumor(**options) -> RandTumord:
    return RandTumord(KEYS, synthesizer(), **options)


# ---- RandTumord -------------------------------------------------------------------------------------------------------------------------


def test_a_sample_keeps_what_monai_knows_of_it():
    given = samples(1, meta=True, name="case 7")[0]
    flip = Flipd(KEYS, 0)
    flipped, made = flip(given), Compose([flip, rand_tumor()])(given)
    for key in KEYS:
        assert isinstance(made[key], MetaTensor)
        assert made[key].shape == given[key].shape
        assert made[key].dtype == given[key].dtype
        assert torch.equal(made[key].affine, flipped[key].affine)
        assert [step["class"] for step in made[key].applied_operations] == ["Flip"]
    assert made["name"] == "case 7"
    assert (made["label"] == 2).sum() > 0
    assert set(made["label"].unique().tolist()) == {0.0, 1.0, 2.0}
    assert not torch.equal(made["image"], flipped["image"])
    assert torch.equal(given["image"], scans().image[0]), "what was given is as it was"
    back = flip.inverse(made)
    assert torch.equal((back["label"] == 2).flip(1), made["label"] == 2)


def test_spacing_comes_from_the_affine():
    """The same voxels, said to be finer: lesions of so many millimetres take more of them."""
    coarse, fine = samples(1, meta=True)[0], samples(1, meta=True)[0]
    for key in KEYS:
        fine[key].affine = torch.diag(torch.tensor([2.0, 2.0, 6.0, 1.0]))
    transform, volumes = rand_tumor(), []
    for sample in (coarse, fine, {**fine, "image": fine["image"].as_tensor()}):
        transform.set_random_state(seed=1)
        transform.spacing_mm = None if isinstance(sample["image"], MetaTensor) else (2.0, 2.0, 6.0)
        volumes.append(int((transform(sample)["label"] == 2).sum()))
    assert volumes[1] > 3 * volumes[0]
    assert volumes[2] == volumes[1]


def test_a_random_state_is_honoured():
    one, other = rand_tumor(), Compose([rand_tumor()])
    one.set_random_state(state=np.random.RandomState(5))
    first = [one(samples(1, meta=True)[0])["image"] for _ in range(3)]
    one.set_random_state(state=np.random.RandomState(5))
    assert all(torch.equal(a, one(samples(1, meta=True)[0])["image"]) for a in first)
    assert all_differ(first)
    other.set_random_state(seed=5)
    composed = [other(samples(1, meta=True)[0])["image"] for _ in range(2)]
    other.set_random_state(seed=5)
    assert all(torch.equal(a, other(samples(1, meta=True)[0])["image"]) for a in composed)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("loader", [DataLoader, TorchLoader], ids=["monai", "torch"])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_no_two_samples_are_alike_within_an_epoch_or_in_the_next(workers, loader):
    """One scan eight times over, so that tumours alone make a difference; plain DataLoaders give all workers MONAI's one random state."""
    torch.manual_seed(0)
    dataset = Dataset(samples(1, meta=True) * 8, Compose([rand_tumor()]))
    batches = loader(dataset, batch_size=1, num_workers=workers, collate_fn=lambda items: items[0])
    seen = [batch["image"] for _ in range(2) for batch in batches]
    assert len(seen) == 16
    assert all_differ(seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_of_one_training_draw_apart_though_they_are_seeded_alike(workers, monkeypatch):
    """As Lightning's seed_everything and MONAI's set_determinism do, in every process the same."""
    seen = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        set_determinism(7)
        loader = DataLoader(Dataset(samples(1, meta=True) * 2, rand_tumor()), batch_size=1, num_workers=workers)
        seen += [batch["image"].as_tensor()[0] for batch in loader]
    set_determinism(None)
    assert len(seen) == 6
    assert all_differ(seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seeded_loader_repeats_itself_and_goes_on_from_torchs_state(workers):
    """MONAI keeps no random state in checkpoints; with torch's, epochs read by workers go on as they would have."""

    def epochs(count):
        return [[batch["image"].clone() for batch in loader] for _ in range(count)]

    set_determinism(7)
    try:
        dataset = Dataset(samples(2, meta=True), rand_tumor())
        loader = DataLoader(dataset, batch_size=1, num_workers=workers)
        first, state = epochs(1), torch.get_rng_state()
        second = epochs(1)
        set_determinism(7)
        loader = DataLoader(Dataset(samples(2, meta=True), rand_tumor()), batch_size=1, num_workers=workers)
        assert all(torch.equal(a, b) for a, b in zip(first[0], epochs(1)[0], strict=True))
        if workers:
            torch.set_rng_state(state)
            assert all(torch.equal(a, b) for a, b in zip(second[0], epochs(1)[0], strict=True))
        assert all_differ([*first[0], *second[0]])
    finally:
        set_determinism(None)


def test_a_cache_does_not_keep_tumours():
    dataset = CacheDataset(samples(1, meta=True), Compose([Flipd(KEYS, 0), rand_tumor()]), progress=False)
    assert all_differ([dataset[0]["image"].as_tensor() for _ in range(3)])


def test_a_loop_trains_on_tumours_after_scaling_too():
    """With the window named, synthesis may stand after it; what is clipped stays so."""
    scale = ScaleIntensityRanged("image", -175, 250, 0, 1, clip=True)
    orders = {
        "before": Compose([rand_tumor(), scale]),
        "after": Compose([scale, rand_tumor(intensity=Window(-175.0, 250.0))]),
    }
    seen = {}
    for name, transforms in orders.items():
        set_determinism(1)
        network, loss_of = Watched(), DiceCELoss(to_onehot_y=True, softmax=True)
        for batch in DataLoader(Dataset(samples(2, meta=True), transforms), batch_size=2):
            loss_of(network(batch["image"]), batch["label"]).backward()
            assert (batch["label"] == 2).any(dim=(1, 2, 3, 4)).any()
        seen[name] = network.seen
        set_determinism(None)
    for a, b in zip(seen["before"], seen["after"], strict=True):
        assert a.min() >= 0.0
        assert b.max() <= 1.0
        assert (a - b).abs().mean() < 1e-3
        healthy = scale({"image": scans(2).image})["image"]
        assert ((a - healthy).abs() > 0.05).sum() > 20, "lesions are there"


def test_a_transform_is_picklable():
    transform = pickle.loads(pickle.dumps(rand_tumor(intensity=Window(-100.0, 200.0))))
    assert transform.step.intensity == Window(-100.0, 200.0)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"label": None}, KeyError, "data must hold 'label', got \\['image'\\]; name image and label with keys"),
        (
            {"image": torch.zeros(1, 4, 4, 4)},
            ValueError,
            "data\\['image'\\] must have an affine, as a MetaTensor has, got a Tensor; or give spacing_mm",
        ),
        ({"image": MetaTensor(torch.zeros(2, 4, 4, 4), AFFINE)}, ValueError, r"data\['image'\] must be \(1, i, j, k\), got \(2, 4, 4, 4\)"),
        ({"label": torch.zeros(4, 4, 4)}, ValueError, r"data\['label'\] must be \(1, i, j, k\), got \(4, 4, 4\); EnsureChannelFirstd"),
    ],
    ids=["no label", "no spacing", "two channels", "no channel"],
)
def test_wrong_samples_are_refused(change, error, word):
    sample = {key: value for key, value in {**samples(1, meta=True)[0], **change}.items() if value is not None}
    with pytest.raises(error, match=word):
        rand_tumor()(sample)


def test_keys_are_two():
    with pytest.raises(ValueError, match=r"keys must be those of image and label, got \['image'\]"):
        RandTumord(["image"], synthesizer())


# ---- TumorPrepareBatch ------------------------------------------------------------------------------------------------------------------


def trained(folder, epochs, resume=None, meta=True, data=None, **options):
    """Train with MONAI's engine; the network comes back, and the last batch that its handlers saw."""
    network, synth = Watched(), synthesizer(seed=11 if resume is None else 77)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    data = data or samples(4, meta=meta)
    evaluator = SupervisedEvaluator(torch.device("cpu"), DataLoader(Dataset(data[3:]), batch_size=1), network)
    saved = {"network": network, "optimizer": optimizer, "synthesizer": synth}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(data[:3]), batch_size=3),
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        prepare_batch=TumorPrepareBatch(synth, **options),
        train_handlers=[ValidationHandler(1, evaluator), CheckpointSaver(str(folder), saved, save_interval=1)],
    )
    if resume is not None:
        trainer.state.epoch = int(resume.stem[-1])
        CheckpointLoader(str(resume), saved).attach(trainer)
    trainer.run()
    return network, {key: torch.stack([sample[key] for sample in trainer.state.output]) for key in KEYS}


def test_an_engine_trains_on_tumours_validates_without_and_goes_on(tmp_path):
    whole, output = trained(tmp_path / "whole", 3)
    assert all(altered(image) for batch in whole.seen for image in batch)
    assert isinstance(output["image"], MetaTensor)
    assert torch.equal(output["image"].as_tensor(), whole.seen[-1]), "handlers get what the network saw"
    assert (output["label"] == 2).flatten(1).any(1).float().mean() > 0.5
    assert len(whole.validated) == 3
    assert not any(altered(image) for batch in whole.validated for image in batch)
    rest, _ = trained(tmp_path / "rest", 3, resume=tmp_path / "whole" / "checkpoint_epoch=1.pt")
    assert len(rest.seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.seen[1:], rest.seen, strict=True))
    assert torch.equal(whole.convolution.weight, rest.convolution.weight)


def test_batches_of_many_kinds(tmp_path):
    window = Window(-175.0, 250.0)
    scaled = [{**sample, "image": window.from_hu(sample["image"])} for sample in samples()]
    kinds = {
        "MetaTensor": {"meta": True},
        "spacing given": {"meta": False, "spacing_mm": SPACING_MM},
        "spacing in the batch": {"data": [{**sample, "spacing_mm": torch.tensor(SPACING_MM)} for sample in samples()]},
        "pairs": {"data": [tuple(sample.values()) for sample in samples()], "spacing_mm": SPACING_MM},
        "scaled": {"data": scaled, "spacing_mm": SPACING_MM, "intensity": window},
    }
    labels = {}
    for name, options in kinds.items():
        _, output = trained(tmp_path / name, 1, **options)
        labels[name] = output["label"].as_subclass(torch.Tensor).to(torch.uint8)
    for name in ("spacing given", "spacing in the batch", "pairs"):
        assert torch.equal(labels[name], labels["MetaTensor"]), name
    assert (labels["scaled"] == 2).any()


def test_what_is_missing_is_named():
    prepare = TumorPrepareBatch(synthesizer())
    with pytest.raises(ValueError, match="batch must hold 'spacing_mm' or MetaTensors, got neither; give spacing_mm"):
        prepare({"image": scans().image, "label": scans().label})
    with pytest.raises(ValueError, match="batch must hold image and label, got label None; give a prepare_batch that finds them"):
        prepare({"image": scans().image})


def test_without_ignite_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ignite", None)
    with pytest.raises(ImportError, match=r"pytorch-ignite must be installed .*; pip install 'gpu-synth\[monai\]'"):
        TumorPrepareBatch(synthesizer())

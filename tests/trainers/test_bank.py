"""The resident feed: the same patches as from disk, to the bit, whatever of the scans lies on the device."""

import re
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from tiny_training import SHAPE, Recorder, data_of, trainer_of

from gpu_synth.manifest import load_case
from gpu_synth.prepare.run import prepare
from gpu_synth.trainers.bank import VolumeBank
from gpu_synth.volumes import save_nifti

BYTES = 3 * SHAPE[0] * SHAPE[1] * SHAPE[2]  # of a scan of the cache
ONE_GIB, ALL_GIB = 1.5 * BYTES / 2**30, 1.0
PARTS = {"disk": 0.0, "mixed": ONE_GIB, "resident": ALL_GIB}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Scans of real size in odd shapes, at 0.8 × 0.9 × 2.5 mm, every voxel another."""
    folder = tmp_path_factory.mktemp("odd")
    for number, shape in enumerate([(311, 283, 97), (187, 333, 61), (97, 113, 141)]):
        grid = [np.linspace(-1, 1, n).reshape([-1 if axis == a else 1 for a in range(3)]) for axis, n in enumerate(shape)]
        label = (sum((x / r) ** 2 for x, r in zip(grid, (0.5, 0.6, 0.7), strict=True)) < 1).astype(np.uint8)
        hu = np.random.default_rng(number).integers(-1024, 3071, shape, dtype=np.int16) // (1 + 20 * label.astype(np.int16))
        hu[:2] = -1000
        for kind, data in (("ct", hu), ("liver", label)):
            (folder / kind).mkdir(exist_ok=True)
            save_nifti(folder / kind / f"{number}.nii.gz", data, np.diag([0.8, 0.9, 2.5, 1.0]))
    prepare(images=folder / "ct", labels=folder / "liver", out=folder / "cache", spacing_mm=(0.8, 0.9, 2.5), workers=0)
    return folder / "cache"


def batches(cache, resident_gib: float, **options):
    """What training sees of an epoch, and what the loader handed over."""
    module, handed = Recorder(), []
    data = data_of(cache, resident_gib=resident_gib, **{"samples_per_epoch": 16, "batch_size": 4, **options})
    count = data.on_before_batch_transfer
    data.on_before_batch_transfer = lambda batch, index: count(handed.append(batch) or batch, index)
    trainer_of(cache.parent, limit_val_batches=0).fit(module, data)
    return module.seen, handed


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in ("image", "label", "uid"))


def test_resident_mixed_and_read_from_disk_are_the_same_to_the_bit(cache):
    seen = {name: batches(cache, gib) for name, gib in PARTS.items()}
    assert all(same(run, seen["disk"][0]) for run, _ in seen.values())
    assert {name: {key for key, value in run[1][0].items() if isinstance(value, torch.Tensor)} for name, run in seen.items()} == {
        "disk": {"uid", "aimed", "image", "label"},
        "mixed": {"uid", "aimed", "image", "label", "place"},
        "resident": {"uid", "aimed", "place"},
    }
    assert any("image" in batch and 0 < len(batch["image"]) < 4 for batch in seen["mixed"][1])


@pytest.mark.parametrize("size", [(96, 96, 96), (95, 64, 33)], ids=str)
def test_scans_of_real_size_in_odd_shapes(odd, size):
    """HU as cropped, before anything is made of them: larger than the scan along one axis or two, some over three scans."""
    data = data_of(odd, patch_vox=size, batch_size=6, samples_per_epoch=24, val_cases=("2",))
    data.setup("fit")
    data.training = list(data.manifest.cases)  # three shapes
    cut = {}
    for name, gib in {"disk": 0.0, "mixed": 0.03, "resident": 1.0}.items():
        data.resident_gib, data.bank = gib, None
        loader = data.train_dataloader()
        cut[name] = [(batch["uid"], *data.bank.patches(batch, size)) for batch in loader]
        assert len(data.bank.resident) == {"disk": 0, "mixed": 2, "resident": 3}[name]
    for (uid, image, label), *others in zip(*cut.values(), strict=True):
        assert image.dtype == torch.float32
        for number in range(len(uid)):
            place = loader.dataset.locator.locate(int(uid[number]))
            whole, _, _ = load_case(data.manifest, data.training[place.case])
            i, j, k = (max(0, -s) for s in place.start_vox)
            corner = [s + o for s, o in zip(place.start_vox, (i, j, k), strict=True)]
            assert image[number, 0, i, j, k] == whole[(0, *corner)]
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip((uid, image, label), other, strict=True))


@pytest.mark.parametrize("resident_gib", [ALL_GIB, ONE_GIB], ids=["resident", "mixed"])
def test_worker_processes_read_what_is_not_resident_and_no_more(cache, resident_gib):
    alone, _ = batches(cache, resident_gib)
    data = data_of(cache, resident_gib=resident_gib, num_workers=2)
    data.setup("fit")
    assert data.train_dataloader().num_workers == (0 if resident_gib == ALL_GIB else 2)
    assert same(batches(cache, resident_gib, num_workers=2)[0], alone)


class Save(pl.Callback):
    """Save after a step."""

    def __init__(self, at: int, path) -> None:
        self.at, self.path = at, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("scope", ["patch", "volume"])
def test_a_run_goes_on_with_the_same_samples_under_another_budget(cache, tmp_path, scope):
    whole, resumed, path = Recorder(), Recorder(), tmp_path / "a.ckpt"
    options = {"scope": scope, "batch_size": 2, "samples_per_epoch": 8}
    trainer_of(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[Save(3, path)]).fit(
        whole, data_of(cache, resident_gib=0.0, **options)
    )
    trainer_of(tmp_path, max_epochs=2, limit_val_batches=0).fit(resumed, data_of(cache, resident_gib=ONE_GIB, **options), ckpt_path=path)
    assert same(resumed.seen, whole.seen[3:])
    assert torch.equal(resumed.network.weight, whole.network.weight)


def test_no_workers_are_asked_for_where_there_is_nothing_to_read(cache, tmp_path, monkeypatch, recwarn):
    """Lightning asks for more workers where a machine has many cores."""
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda devices: 16)
    for resident_gib, asks in ((ONE_GIB, True), (ALL_GIB, False)):
        recwarn.clear()
        trainer_of(tmp_path, limit_val_batches=0).fit(Recorder(), data_of(cache, resident_gib=resident_gib))
        assert any("does not have many workers" in str(warning.message) for warning in recwarn) == asks


def test_a_resident_batch_is_ids_alone(cache):
    _, handed = batches(cache, ALL_GIB)
    assert sum(value.nbytes for value in handed[0].values() if isinstance(value, torch.Tensor)) == 4 * (8 + 32 + 1)


@pytest.mark.parametrize(
    ("scans", "says"),
    [
        (3, r"^3 of 3 scans are resident on cpu \(0\.00159 GiB\)$"),
        (1, r"^1 of 3 scans are resident on cpu \(0\.000531 GiB\); 2 stay on disk \(0\.00106 GiB\): the loader reads their patches$"),
        (0, r"^3 scans stay on disk \(0\.00159 GiB\): the loader reads their patches$"),
    ],
)
def test_the_log_says_what_is_resident(cache, monkeypatch, scans, says):
    data, said = data_of(cache), []
    data.setup("fit")
    with monkeypatch.context() as log:  # whatever level others have set
        log.setattr("gpu_synth.trainers.bank.rank_zero_info", said.append)
        bank = VolumeBank(data.manifest, data.training, CPU, (scans + 0.1) * BYTES / 2**30)
    assert list(bank.resident) == list(range(scans))
    assert any(re.search(says, message) for message in said)
    assert bank.volumes.image.nbytes + bank.volumes.label.nbytes == scans * BYTES


def test_a_scan_that_is_too_large_makes_way_for_the_next(odd):
    data = data_of(odd)
    data.setup("fit")
    bank = VolumeBank(data.manifest, data.manifest.cases, CPU, 0.013)
    assert bank.resident == {1: 0}
    assert torch.equal(bank.volumes.image[: 187 * 333 * 61].view(187, 333, 61), load_case(data.manifest, 1)[0][0])


def test_a_cpu_holds_none_unless_told(cache):
    data = data_of(cache)
    data.setup("fit")
    assert VolumeBank(data.manifest, data.training, CPU, None).resident == {}


def test_memory_is_given_back_after_the_fit(cache, tmp_path):
    data = data_of(cache, resident_gib=ALL_GIB)
    trainer_of(tmp_path, limit_val_batches=0).fit(Recorder(), data)
    assert data.bank is None


@pytest.mark.parametrize("resident_gib", [ALL_GIB, ONE_GIB], ids=["resident", "mixed"])
@pytest.mark.parametrize("scope", ["patch", "volume"])
def test_nothing_is_read_back_from_the_device(cache, resident_gib, scope):
    """On the meta device, where there are no values, reading one raises."""
    data = data_of(cache, resident_gib=resident_gib, scope=scope, batch_size=8)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    data.trainer = SimpleNamespace(training=True, testing=False, world_size=1, precision_plugin=Precision())
    data.bank.volumes = type(data.bank.volumes)(*(x.to("meta") for x in data.bank.volumes))
    moved = data.transfer_batch_to_device(data.on_before_batch_transfer(batch, 0), torch.device("meta"), 0)
    out = data.on_after_batch_transfer(moved, 0)
    assert out["image"].device.type == out["label"].device.type == "meta"
    assert out["image"].shape == (8, 1, *data.patch_vox)
    with pytest.raises(RuntimeError, match="meta"):
        _ = data.synthesis.synthesizer.lesions  # so reading would have been noticed


@pytest.mark.parametrize("resident_gib", [-1.0, float("nan"), float("inf")], ids=str)
def test_a_budget_that_is_none_is_refused(cache, resident_gib):
    with pytest.raises(ValueError, match="resident_gib must be a number of GiB, 0 or more, got"):
        data_of(cache, resident_gib=resident_gib)


@pytest.mark.cuda
@pytest.mark.parametrize("resident_gib", [ALL_GIB, ONE_GIB, None], ids=["resident", "mixed", "by itself"])
def test_a_device_cuts_the_same_and_waits_for_nothing(cache, resident_gib):
    data = data_of(cache, batch_size=4)
    data.setup("fit")
    cuda = torch.device("cuda")
    expected = [data.bank.patches(batch, data.patch_vox) for batch in data.train_dataloader()]
    data.bank, data.trainer = None, SimpleNamespace(world_size=1, global_rank=0, strategy=SimpleNamespace(root_device=cuda), training=True)
    data.resident_gib = resident_gib
    loader = data.train_dataloader()
    moved = [data.transfer_batch_to_device(batch, cuda, 0) for batch in loader]
    torch.cuda.set_sync_debug_mode("error")
    try:
        cut = [data.bank.patches(batch, data.patch_vox) for batch in moved]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(data.bank.resident) == (1 if resident_gib == ONE_GIB else 3)
    for (image, label), (found_image, found_label) in zip(expected, cut, strict=True):
        assert torch.equal(found_image.cpu(), image)
        assert torch.equal(found_label.cpu(), label)

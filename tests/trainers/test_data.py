"""The feed: which patch a uid is, where a run goes on, what is held out."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from tiny_training import Recorder, data_of, trainer_of, write_scan

from gpu_synth.manifest import load_case, load_manifest
from gpu_synth.prepare.run import prepare
from gpu_synth.trainers.augment import window
from gpu_synth.trainers.data import OrdinalSampler
from gpu_synth.trainers.scans import HELD_OUT_UID


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in ("image", "label", "uid"))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_ordinals_of_an_epoch(cache, world):
    data = data_of(cache, samples_per_epoch=16)
    epochs = []
    for epoch in range(2):
        data.samples_seen = 16 * epoch
        ranks = [list(OrdinalSampler(data, rank, world)) for rank in range(world)]
        assert all(len(rank) == len(OrdinalSampler(data, 0, world)) for rank in ranks)
        epochs += sorted(uid for rank in ranks for uid in rank)
    assert epochs == list(range(32))


def test_sampler_goes_on_in_the_middle_of_an_epoch(cache):
    data = data_of(cache, samples_per_epoch=8)
    data.samples_seen = 8 + 4
    assert list(OrdinalSampler(data, 0, 1)) == [12, 13, 14, 15]


def test_training_sees_tumours_and_uids_in_order(cache, tmp_path):
    module = Recorder()
    trainer_of(tmp_path, max_epochs=2, limit_val_batches=0).fit(module, data_of(cache, batch_size=2))
    assert torch.cat([batch["uid"] for batch in module.seen]).tolist() == list(range(16))
    images = torch.cat([batch["image"] for batch in module.seen])
    assert images.min() >= -0.1, "windowed, then shifted by a tenth at most"
    assert images.max() <= 1.2
    assert sum(bool((batch["label"] == 2).any()) for batch in module.seen) >= 6


def test_worker_processes_change_nothing(cache, tmp_path):
    runs = []
    for workers in (0, 2):
        module = Recorder()
        trainer_of(tmp_path, limit_val_batches=0).fit(module, data_of(cache, num_workers=workers))
        runs.append(module.seen)
    assert len(runs[0]) == len(runs[1]) == 4
    assert all(same(a, b) for a, b in zip(*runs, strict=True))


class Crash(pl.Callback):
    """Save after a step, then die."""

    def __init__(self, at: int, path) -> None:
        self.at, self.path = at, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("killed")


@pytest.mark.filterwarnings("error:.*not resumable")
@pytest.mark.parametrize("at", [2, 4, 6], ids=["middle-of-first-epoch", "end-of-first-epoch", "middle-of-second-epoch"])
def test_a_killed_run_goes_on_with_the_same_samples_and_ends_with_the_same_weights(cache, tmp_path, at):
    whole = Recorder()
    trainer_of(tmp_path, max_epochs=3, limit_val_batches=0).fit(whole, data_of(cache, seed=5))

    killed = Recorder()
    with pytest.raises(RuntimeError, match="killed"):
        trainer_of(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[Crash(at, tmp_path / "a.ckpt")]).fit(
            killed, data_of(cache, seed=5)
        )
    resumed = Recorder()
    trainer_of(tmp_path, max_epochs=3, limit_val_batches=0).fit(resumed, data_of(cache, seed=99), ckpt_path=tmp_path / "a.ckpt")

    both = killed.seen + resumed.seen
    assert [batch["uid"].tolist() for batch in both] == [batch["uid"].tolist() for batch in whole.seen]
    assert all(same(a, b) for a, b in zip(both, whole.seen, strict=True))
    assert torch.equal(resumed.network.weight, whole.network.weight)


def test_checkpoint_holds_the_synthesizers_state(cache, tmp_path):
    data, trainer = data_of(cache, seed=7), trainer_of(tmp_path, limit_val_batches=0)
    trainer.fit(Recorder(), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["SynthesisDataModule"]
    assert state["samples_seen"] == 8
    assert state["synthesizer"] == data.synthesis.synthesizer.get_extra_state()
    with pytest.warns(UserWarning, match="contrast_hu|preset"):
        data_of(cache, overrides={"cnr_floor": 3.0}).load_state_dict(state)


def test_validation_is_held_out_has_tumours_and_never_changes(cache, tmp_path):
    runs = []
    for seed in (0, 1):
        module = Recorder()
        trainer_of(tmp_path, max_epochs=2).fit(module, data_of(cache, seed=seed, val_cases=("case1", "case2")))
        runs += [module.held_out[:2], module.held_out[2:]]
    for run in runs:
        assert [batch["uid"].item() for batch in run] == [HELD_OUT_UID, HELD_OUT_UID + 1]
        assert all((batch["label"] == 2).any() for batch in run)
        assert all(same(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A healthy scan, and one with a real tumour."""
    folder = tmp_path_factory.mktemp("annotated")
    write_scan(folder, "healthy", (0.6, 0.7, 0.8))
    write_scan(folder, "tumor", (0.6, 0.7, 0.8), tumor=True)
    prepare(images=folder / "ct", labels=folder / "liver", out=folder / "cache", spacing_mm=(2.0, 2.0, 2.0), tumor_labels=(2,))
    return folder / "cache"


def test_annotated_scans_are_tested_as_they_are(cache, annotated, tmp_path):
    module, data = Recorder(), data_of(cache, test_dir=str(annotated), val_margin_mm=None)
    trainer_of(tmp_path).test(module, data, verbose=False)
    cases = [load_case(load_manifest(annotated), name) for name in ("healthy", "tumor")]
    assert [bool((label == 2).any()) for _, label, _ in cases] == [False, True]
    for batch, (image, label, _) in zip(module.held_out, cases, strict=True):
        assert torch.equal(batch["label"][0], label)
        assert torch.equal(batch["image"][0], window(image.float(), data.window_hu))


def test_annotated_scans_of_another_spacing_are_refused(cache, annotated, tmp_path):
    prepare(images=annotated.parent / "ct", labels=annotated.parent / "liver", out=tmp_path, spacing_mm=(3.0, 2.0, 2.0))
    data = data_of(cache, test_dir=str(tmp_path))
    data.setup("test")
    with pytest.raises(ValueError, match=r"test_dir must have data_dir's spacing of \[2.0, 2.0, 2.0\] mm, got \[3.0, 2.0, 2.0\]"):
        data.test_dataloader()


def test_held_out_scans_are_tested_with_synthetic_tumours_where_no_others_are_named(cache, tmp_path):
    module = Recorder()
    trainer_of(tmp_path).test(module, data_of(cache, val_cases=("case1", "case2")), verbose=False)
    assert [bool((batch["label"] == 2).any()) for batch in module.held_out] == [True, True]


def test_validation_has_tumours_though_a_test_folder_is_named(cache, annotated, tmp_path):
    module = Recorder()
    trainer_of(tmp_path).validate(module, data_of(cache, test_dir=str(annotated)), verbose=False)
    assert all((batch["label"] == 2).any() for batch in module.held_out)


def test_nothing_is_read_back_from_the_device(cache):
    """On the meta device, where there are no values, reading one raises."""
    data = data_of(cache)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    data.trainer = SimpleNamespace(training=True, testing=False, world_size=1, precision_plugin=Precision())
    data.synthesis.keep_example = True
    batch = data.on_before_batch_transfer(batch, 0)
    moved = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    assert {name for name, value in moved.items() if isinstance(value, torch.Tensor)} == {"image", "label", "uid", "aimed"}
    out = data.on_after_batch_transfer(moved, 0)
    assert out["image"].device.type == out["label"].device.type == "meta"
    assert data.synthesis.example.image.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        _ = data.synthesis.synthesizer.lesions  # so reading would have been noticed
    data.trainer.training = False
    assert data.on_after_batch_transfer(moved, 0)["image"].device.type == "meta"


def test_whole_scans_are_validated_on_request(cache):
    data = data_of(cache, val_margin_mm=None)
    data.setup("fit")
    assert next(iter(data.val_dataloader()))["image"].shape[2:] == data.held_out[0].shape


def test_overrides_reach_both_synthesizers(cache):
    data = data_of(cache, overrides={"mass_effect": [20, 30]})
    assert data.synthesis.synthesizer.preset.mass_effect == data.held_out_synthesizer.preset.mass_effect == (20, 30)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"val_cases": ("case0", "case1", "case2", "case3")}, "must hold a case that is not held out"),
        ({"val_cases": ("case9",)}, "val_cases must name prepared cases, got case9"),
        ({"samples_per_epoch": 1}, r"samples_per_epoch must be at least batch_size 2 × 1 process\(es\), got 1; raise it, or lower batch_"),
    ],
    ids=["all-held-out", "unknown-case", "too-few-samples"],
)
def test_options_that_do_not_fit_the_data_are_refused(cache, options, says):
    with pytest.raises(ValueError, match=says):
        data_of(cache, **options).setup("fit")


def test_an_epoch_must_hold_a_step_of_every_process(cache):
    data = data_of(cache, samples_per_epoch=7)
    data.trainer = SimpleNamespace(world_size=4, max_epochs=1)
    with pytest.raises(ValueError, match=r"samples_per_epoch must be at least batch_size 2 × 4 process\(es\), got 7"):
        data.setup("fit")
    data.trainer.world_size = 3
    data.setup("fit")
    assert data.samples_per_epoch == 6


def test_predict_refuses_what_is_no_file(cache):
    data = data_of(cache, predict_images="/nowhere/*.nii.gz")
    data.setup("predict")
    with pytest.raises(ValueError, match="predict_images must be a folder"):
        data.predict_dataloader()
    data.predict_images = ()
    with pytest.raises(ValueError, match="predict_images must name CT files"):
        data.predict_dataloader()


def test_predict_takes_a_folder_files_or_a_pattern_that_names_them(cache, tmp_path):
    for n in range(2):
        (tmp_path / f"scan{n}").mkdir()
        (tmp_path / f"scan{n}" / "ct.nii.gz").write_bytes((cache.parent / "ct" / f"case{n}.nii.gz").read_bytes())
    for where, names in (
        (str(cache.parent / "ct"), ["case0", "case1", "case2", "case3"]),
        (f"{cache.parent}/ct/case[01].nii.gz", ["case0", "case1"]),
        (f"{tmp_path}/*/ct.nii.gz", ["scan0", "scan1"]),
        ([f"{tmp_path}/scan1/ct.nii.gz"], ["ct"]),
    ):
        data = data_of(cache, predict_images=where)
        data.setup("predict")
        assert [batch["name"] for batch in data.predict_dataloader()] == [[name] for name in names]
    data.predict_images = [f"{tmp_path}/scan{n}/ct.nii.gz" for n in range(2)]
    with pytest.raises(ValueError, match="none of them alike, got ct; give a folder, or a quoted pattern"):
        data.predict_dataloader()


def test_only_predict_goes_without_prepared_data(cache):
    data = data_of(cache, spacing_mm=(2.0, 2.0, 2.5), predict_images=str(cache.parent / "ct" / "case0.nii.gz"))
    data.data_dir = None
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["spacing_mm"][0] == pytest.approx((2.0, 2.0, 2.5))
    with pytest.raises(ValueError, match=r"data_dir must be a folder that gpu-synth prepare wrote, got None; give --data\.data_dir$"):
        data.setup("fit")
    data.spacing_mm = None
    with pytest.raises(ValueError, match=r"got None; give --data\.data_dir or --data\.spacing_mm$"):
        data.setup("predict")

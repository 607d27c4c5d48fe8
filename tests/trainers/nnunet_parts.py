"""Parts of the nnU-Net trainer, tested where nnU-Net is installed: `test_nnunet.py` runs this file in that environment."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise import gaussian_blur
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform, blur_dimension
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scans import scans

import gpu_synth.trainers.nnunet as folder
from gpu_synth.trainers.intensity import HUCheck, ZScore
from gpu_synth.trainers.nnunet import nnUNetTrainerTumorSynth as trainers
from gpu_synth.trainers.nnunet_options import mark, synthesizer

CPU = torch.device("cpu")
PATCH = (16, 24, 24)
SCALES = [[1, 1, 1], [0.5, 0.5, 0.5]]
REGIONS = [(1, 2), 2]
SPACING_MM = (2.0, 1.5, 1.5)
INTENSITY = ZScore(100.0, 20.0, (-60.0, 220.0))


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch):
    monkeypatch.delenv("nnUNet_tumorSynth", raising=False)


def transforms(kind=nnUNetTrainer, dummy_2d=False, **more):
    return kind.get_training_transforms(PATCH, (-0.5, 0.5), SCALES, (0, 1, 2), dummy_2d, use_mask_for_norm=[False], **more)


def trainer(after=None, synthesis=None, device=CPU, **more):
    """A trainer as far as a batch needs one: nnU-Net's own set-up asks for a planned data set."""
    made = object.__new__(trainers.nnUNetTrainerTumorSynth)
    vars(made).update(
        device=device,
        synthesizer=synthesizer({"prob": 1.0, "seed": 5, **(synthesis or {})}, axial_axis=0),
        intensity=INTENSITY,
        look=HUCheck(),
        spacing_mm=SPACING_MM,
        next_uid=0,
        is_ddp=False,
        local_rank=0,
        after_synthesis=after or ComposeTransforms([]),
        **more,
    )
    return made


def batch(b=2):
    image, label = scans(b, (32, 40, 40))
    return {"data": INTENSITY.from_hu(image), "target": label.to(torch.int16), "keys": [f"p{n}" for n in range(b)]}


@pytest.mark.parametrize("dummy_2d", [False, True], ids=["3d", "dummy-2d"])
@pytest.mark.parametrize("kind", [nnUNetTrainer, nnUNetTrainerDA5], ids=["default", "DA5"])
def test_workers_keep_what_moves_voxels_and_the_device_gets_the_rest(kind, dummy_2d):
    whole = transforms(kind, dummy_2d, regions=REGIONS).transforms
    before, after = (part.transforms for part in trainers.split(ComposeTransforms(list(whole)), CPU))
    assert sorted(map(id, [*before, *after])) == sorted(map(id, whole)), "nothing is lost"
    names = [type(part).__name__ for one in before for part in trainers._parts(one)]
    assert {"SpatialTransform", "MirrorTransform", "RemoveLabelTransform"} <= set(names)
    assert not any(isinstance(part, ImageOnlyTransform) for one in before for part in trainers._parts(one))
    assert [type(one).__name__ for one in after[-2:]] == ["ConvertSegmentationToRegionsTransform", "DownsampleSegForDSTransform"]
    assert len(after) >= 9


def test_targets_are_of_what_was_synthesised_at_every_scale_and_in_regions():
    _, after = trainers.split(transforms(regions=REGIONS), CPU)
    made = trainer(after)
    given = batch()
    out = made.synthesized({**given, "data": given["data"].clone(), "target": given["target"].clone()})
    full, half = out["target"]
    assert out["keys"] == given["keys"]
    assert out["data"].shape == given["data"].shape
    assert full.shape == (2, 2, 32, 40, 40)
    assert half.shape == (2, 2, 16, 20, 20)
    assert full.dtype == torch.bool
    assert full[:, 1].flatten(1).any(1).all()
    assert half[:, 1].any()
    assert not (full[:, 1] & ~full[:, 0]).any(), "the organ with its tumour holds the tumour"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.cuda)])
def test_every_change_of_intensity_runs_on_the_device(device):
    whole = transforms(regions=REGIONS)
    for part in whole.transforms:
        if isinstance(part, RandomTransform):
            part.apply_probability = 1.0
    _, after = trainers.split(whole, torch.device(device))
    given = batch()
    out = trainer(after, device=torch.device(device)).synthesized(given)
    assert {str(x.device) for x in (out["data"], *out["target"])} == {device}
    assert out["data"].isfinite().all()
    assert (out["data"].cpu() != batch()["data"]).float().mean() > 0.99
    assert out["target"][0][:, 1].any()


def test_without_other_augmentation_only_synthesis_changes_the_image():
    given, made = batch(), trainer()
    out = made.synthesized(given)
    plain = trainer().synthesizer(INTENSITY.to_hu(given["data"]), given["target"], SPACING_MM, torch.arange(2))
    changed = out["data"] != given["data"]
    assert torch.equal(out["target"], plain[1])
    assert torch.equal(changed, changed & (plain[0] != INTENSITY.to_hu(given["data"]))), "other voxels keep their bits"
    assert torch.allclose(out["data"][changed], INTENSITY.from_hu(plain[0])[changed])
    assert out["target"].dtype == torch.int16
    assert made.next_uid == 2


def test_a_sample_with_a_tumour_stays_as_it_is():
    given = batch()
    given["target"][0, 0, 10:14, 12:16, 12:16] = 2
    out = trainer().synthesized(given)
    assert torch.equal(out["data"][0], given["data"][0])
    assert torch.equal(out["target"][0], given["target"][0])
    assert (out["target"][1] == 2).any()


def test_a_sample_is_augmented_as_its_ordinal_says_alone_or_in_a_batch():
    _, after = trainers.split(ComposeTransforms([GaussianNoiseTransform((0.05, 0.1))]), CPU)
    given = batch()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    both = trainer(after).synthesized({key: given[key].clone() for key in ("data", "target")})
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1]), "the global generators are as they were"  # noqa: NPY002
    second = trainer(after)
    second.next_uid = 1
    alone = second.synthesized({key: given[key][1:].clone() for key in ("data", "target")})
    assert torch.equal(both["data"][1], alone["data"][0])
    assert torch.equal(both["target"][1], alone["target"][0])
    noise = [(both["data"][n] - trainer().synthesized(batch())["data"][n]) for n in range(2)]
    assert not torch.equal(*noise)


def test_ranks_draw_apart_though_their_batches_differ(monkeypatch):
    monkeypatch.setattr(trainers.dist, "get_world_size", lambda: 3)
    plan = SimpleNamespace(batch_size=5)
    ranks = [trainer(configuration_manager=plan) for _ in range(3)]
    seen = []
    for rank, made in enumerate(ranks):
        made.is_ddp, made.local_rank = True, rank
        seen += [uid for count in [(2, 2, 1)[rank]] * 2 for uid in made.next_uids(count).tolist()]
    assert sorted(seen) == list(range(10))
    assert {made.next_uid for made in ranks} == {10}
    for rank, made in enumerate(ranks):  # the sizes are those that nnU-Net deals out
        monkeypatch.setattr(trainers.dist, "get_rank", lambda rank=rank: rank)
        made.oversample_foreground_percent = 0.33
        made._set_batch_size_and_oversample()
        assert made.batch_size == (2, 2, 1)[rank]


def test_blur_is_nnunets_and_follows_the_image_to_its_device(monkeypatch):
    image = torch.randn(1, 8, 9, 10)
    assert torch.equal(trainers.blur(image, 0.8, 1), blur_dimension(image, 0.8, 1))
    kernels = []
    make = gaussian_blur._build_kernel
    monkeypatch.setattr(gaussian_blur, "_build_kernel", lambda *args, **more: kernels.append(make(*args, **more)) or kernels[-1])
    trainers.blur(image.to("meta"), 0.8, 1)
    assert [kernel.device.type for kernel in kernels] == ["meta"]
    blurs = RandomTransform(GaussianBlurTransform((0.5, 1.0), benchmark=True), 1.0)
    _, after = trainers.split(ComposeTransforms([blurs]), CPU)
    out = after(image=image.clone(), segmentation=torch.zeros(1, 8, 9, 10))
    assert out["image"].std() < image.std()


def test_regions_follow_to_the_device():
    _, after = trainers.split(transforms(regions=REGIONS), torch.device("meta"))
    assert all(region.device.type == "meta" for region in after.transforms[-2].regions)


@pytest.mark.parametrize("name", ["nnUNetTrainerTumorSynth", "nnUNetTrainerTumorSynthNoDA"])
def test_nnunet_finds_the_trainers(name, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_extTrainer", folder.__path__[0])
    found = recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name
    assert issubclass(found, nnUNetTrainer)


def test_nnunet_finds_the_one_that_the_example_writes(tmp_path, monkeypatch):
    script = (Path(folder.__path__[0]).parent / "examples" / "nnunet.sh").read_text()
    (name, text) = re.search(r"own_trainers/(\w+)\.py <<'OWN'\n(.*?)\nOWN\n", script, re.DOTALL).groups()
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert issubclass(recursive_find_trainer_class_by_name(name), trainers.nnUNetTrainerTumorSynth)


def test_the_one_without_augmentation_mirrors_nothing():
    made = object.__new__(trainers.nnUNetTrainerTumorSynthNoDA)
    made.device = CPU
    workers = made.get_training_transforms(PATCH, (-0.5, 0.5), SCALES, (0, 1, 2), False)
    assert [type(one).__name__ for one in workers.transforms] == ["RemoveLabelTransform"]
    assert [type(one).__name__ for one in made.after_synthesis.transforms] == ["DownsampleSegForDSTransform"]
    assert not any(isinstance(one, MirrorTransform) for one in workers.transforms)


CT = {"patch_size": [16, 24, 24], "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False]}
LABELS = {"background": 0, "organ": 1, "tumor": 2}


@pytest.mark.parametrize(
    ("configuration", "more", "says"),
    [
        ({"patch_size": [24, 24]}, {}, "three-dimensional"),
        ({}, {"is_cascaded": True}, "3d_fullres"),
        ({"normalization_schemes": ["CTNormalization"] * 2, "use_mask_for_norm": [False] * 2}, {}, "one CT"),
        ({"normalization_schemes": ["ZScoreNormalization"]}, {}, "cannot be undone"),
        ({}, {"labels": {"background": 0, "organ": 1}}, "tumor_label must be a label"),
        ({}, {"labels": {"background": 0, "organ": [1, 3], "other": 3}, "synthesis": {"tumor_label": 4}}, "got 4 and labels"),
    ],
    ids=["2d", "cascade", "two-channels", "zscore", "no-tumour", "other-number"],
)
def test_what_cannot_be_synthesised_for_is_refused(configuration, more, says):
    labels = more.get("labels", LABELS)
    made = trainer(
        synthesis=more.get("synthesis"),
        configuration_manager=SimpleNamespace(**{**CT, **configuration}),
        configuration_name="that",
        is_cascaded=more.get("is_cascaded", False),
        dataset_json={"labels": labels, "channel_names": {"0": "CT"}},
        label_manager=LabelManager(labels, regions_class_order=[1, 3]),
        plans_manager=SimpleNamespace(),
    )
    with pytest.raises(ValueError, match=says):
        (made._check(), made._check_labels(), made._intensity())


def test_regions_and_ignored_voxels_are_handled():
    labels = {"background": 0, "organ": [1, 2], "tumor": 2, "ignore": 3}
    made = trainer(label_manager=LabelManager(labels, regions_class_order=[1, 2]), dataset_json={"labels": labels})
    made._check_labels()
    _, made.after_synthesis = trainers.split(transforms(regions=REGIONS, ignore_label=3), CPU)
    given = batch()
    given["target"][:, :, :, :6] = 3
    full, _ = made.synthesized(given)["target"]
    assert full.shape[1] == 3
    assert full[:, 2, :, :6].all()
    assert not full[:, 2, :, 6:].any()
    assert full[:, 1].any()


@pytest.mark.parametrize(
    ("measured_with", "says"),
    [(None, "without synthetic tumours"), ({"preset": "pancreas"}, "with those of 'pancreas"), ({}, None)],
    ids=["as-nnunet-measured", "of-other-lesions", "widened"],
)
def test_plans_that_clip_lesions_are_told(measured_with, says):
    found = {"mean": 100.0, "std": 20.0, "percentile_00_5": 40.0, "percentile_99_5": 160.0}
    if measured_with is not None:
        found["tumor_synth"] = mark(synthesizer(measured_with, axial_axis=2))
    said = []
    made = trainer(
        configuration_manager=SimpleNamespace(**CT),
        plans_manager=SimpleNamespace(foreground_intensity_properties_per_channel={"0": found}),
        print_to_log_file=said.append,
    )
    assert made._intensity() == ZScore(100.0, 20.0, (40.0, 160.0))
    assert len(said) == (says is not None)
    assert all(says in line and "40 to 160 HU" in line and "gpu-synth nnunet-fingerprint" in line for line in said)


def test_images_that_do_not_come_back_as_hu_are_left_as_they_are():
    """Plans of another data set: the organ would be at thousands of HU."""
    made, given = trainer(), batch()
    made.intensity = ZScore(3000.0, 20.0)
    with pytest.warns(UserWarning, match="on average in the organ"):
        out = made.synthesized(given)
    assert torch.equal(out["data"], given["data"])
    assert not (out["target"] == 2).any()


def test_axes_and_spacing_follow_the_plans(tmp_path, monkeypatch):
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("nnUNet_tumorSynth", "{preset: liver-hu2022}")
    hu = {"mean": 100.0, "std": 20.0, "percentile_00_5": -60.0, "percentile_99_5": 220.0, "tumor_synth": "liver"}
    plans = {
        "dataset_name": "Dataset900_TumorSynth",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [2, 0, 1],  # x is the coarsest: arrays are (x, z, y)
        "transpose_backward": [1, 2, 0],
        "foreground_intensity_properties_per_channel": {"0": hu},
        "configurations": {"3d_fullres": {**CT, "data_identifier": "3d", "batch_size": 2, "spacing": [3.0, 2.0, 1.0], "architecture": {}}},
        "continue_training": False,
    }
    made = trainers.nnUNetTrainerTumorSynth(plans, "3d_fullres", 0, {"labels": LABELS, "channel_names": {"0": "CT"}}, CPU)
    assert made.synthesizer.preset.axial_axis == 1
    assert made.spacing_mm == (3.0, 2.0, 1.0)
    assert made.intensity == INTENSITY


def test_a_checkpoint_keeps_ordinals_and_one_of_another_trainer_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", lambda self, filename: torch.save({"network_weights": {}}, filename))
    monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", lambda self, filename: None)
    first, path = trainer(), tmp_path / "checkpoint_latest.pth"
    first.next_uid = 123
    first.save_checkpoint(str(path))
    second = trainer(synthesis={"seed": 6})
    second.load_checkpoint(str(path))
    assert (second.next_uid, second.synthesizer.seed) == (123, 5)
    torch.save({"network_weights": {}}, path)
    other = trainer()
    other.load_checkpoint(str(path))
    assert other.next_uid == 0
    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", lambda self, filename: None)
    first.save_checkpoint(str(tmp_path / "none.pth"))
    assert not (tmp_path / "none.pth").exists(), "another process writes it, or checkpoints are switched off"

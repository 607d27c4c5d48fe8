"""Tumours of the whole organ, then a crop, as published; and what a patch that was asked to hold a tumour holds."""

import numpy as np
import pytest
import torch
from ct_files import real_ct
from tiny_training import Recorder, data_of, trainer_of

from gpu_synth import TumorSynthesizer
from gpu_synth.manifest import load_case, load_manifest, read_patch
from gpu_synth.phantom import phantom
from gpu_synth.prepare.run import prepare
from gpu_synth.trainers.patches import PatchDataset, PatchLocator, PatchPolicy, whole_box
from gpu_synth.trainers.step import LEAST_ORGAN_MM3, SynthesisStep, Whole
from gpu_synth.volumes import save_nifti

PATCH_VOX = (40, 40, 32)
PRESETS = ["liver", "liver-hu2022"]
SPACING_MM = (2.0, 2.0, 2.0)
INSIDE = (..., *[slice(8, -8)] * 3)  # a crop is that of the render but within 8 voxels of its border


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_patches_whether_the_whole_is_resident_or_read(cache, preset, tmp_path):
    runs = []
    for resident_gib, workers in ((0.0, 2), (0.0, 0), (0.0008, 0), (1.0, 2)):
        module = Recorder()
        data = data_of(cache, scope="volume", preset=preset, resident_gib=resident_gib, num_workers=workers, batch_size=4)
        trainer_of(tmp_path, limit_val_batches=0).fit(module, data)
        runs.append((module.seen, data.synthesis.synthesizer.lesions, data.synthesis.synthesizer.skipped))
    for seen, lesions, skipped in runs[1:]:
        assert (lesions, skipped) == runs[0][1:]
        for batch, first in zip(seen, runs[0][0], strict=True):
            assert all(torch.equal(batch[name], first[name]) for name in ("image", "label", "uid"))
    assert runs[0][1] > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_patch_shows_what_the_plan_of_the_whole_organ_has_there(cache, preset):
    """Against the plan rendered as a whole, then cut: patches that reach beyond the organ's box too."""
    manifest = load_manifest(cache)
    case, step = manifest.cases[0], SynthesisStep(TumorSynthesizer(preset, prob=1.0, scope="volume").train())
    image, label, _ = load_case(manifest, case)
    shown = 0
    for uid, start in enumerate([(0, 0, 0), (16, 10, 6), (32, 20, 12), (20, 0, 12), (-6, 14, 20)]):
        first, size = whole_box(case, start, PATCH_VOX)
        box = read_patch(manifest, case, first, size)
        whole = Whole(box[0][None].float(), box[1][None], tuple(s - f for s, f in zip(start, first, strict=True)))
        patch, patch_label = (x[None] for x in read_patch(manifest, case, start, PATCH_VOX))
        uids = torch.tensor([uid])
        before = step.synthesizer.lesions
        new_image, new_label = step.of_wholes(patch.float(), patch_label, [SPACING_MM], uids, [whole])
        plan = step.synthesizer.plan(whole.image, whole.label, SPACING_MM, uids)
        of_scan = step.synthesizer.render(image[None].float(), label[None], plan, [-f for f in first])
        inside = [slice(max(0, s), min(n, s + p)) for s, p, n in zip(start, PATCH_VOX, case.shape, strict=True)]
        cut_image, cut_label, number = (x[(0, 0, *inside)] for x in (of_scan.image, of_scan.label, of_scan.instances))
        there = tuple(slice(i.start - s, i.stop - s) for i, s in zip(inside, start, strict=True))
        assert torch.equal(new_label[0, 0][there][INSIDE], cut_label[INSIDE])
        torch.testing.assert_close(new_image[0, 0][there][INSIDE], cut_image[INSIDE], rtol=0, atol=0.01)
        assert step.synthesizer.lesions - before == len(number.unique()) - 1, "lesions that the patch shows"
        shown += step.synthesizer.lesions - before
    assert 0 < shown < step.synthesizer.plan(image[None].float(), label[None], SPACING_MM, uids).active.shape[1] * 5


def test_the_whole_is_the_organ_with_a_margin(cache):
    """And what shows nothing of the organ's box has none, and stays as it is."""
    case = load_manifest(cache).cases[0]
    first, size = whole_box(case, (10, 10, 10), PATCH_VOX)
    for axis in range(3):
        low, high = case.organ_bbox_vox[0][axis], case.organ_bbox_vox[1][axis]
        assert first[axis] == max(0, low - 8)
        assert first[axis] + size[axis] == min(case.shape[axis], high + 8), "16 mm of 2 mm voxels"
    end = first[0] + size[0]
    assert end < case.shape[0]
    assert whole_box(case, (end - 1, 0, 0), PATCH_VOX) == (first, size)
    assert whole_box(case, (end, 0, 0), PATCH_VOX) is None
    step = SynthesisStep(TumorSynthesizer("liver", prob=1.0, scope="volume").train(), soft_labels=True)
    image, label = torch.rand(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8, dtype=torch.uint8)
    out = step.of_wholes(image, label, [SPACING_MM], torch.tensor([0]), [None])
    assert torch.equal(out[0], image)
    assert torch.equal(out[1], label)
    assert not out[2].any()
    assert step.synthesizer.lesions == step.synthesizer.skipped == 0


def test_a_whole_organ_gives_each_patch_less_tumour(cache, tmp_path):
    """The same uids with both scopes: lesions of the whole are drawn once, not once a patch."""
    share = {}
    for scope in ("patch", "volume"):
        module = Recorder()
        options = {"samples_per_epoch": 24, "policy": PatchPolicy(1, 0, 0), "preset": "liver-hu2022", "patch_vox": (24, 24, 16)}
        trainer_of(tmp_path, limit_val_batches=0).fit(module, data_of(cache, scope=scope, resident_gib=1.0, batch_size=4, **options))
        labels = torch.cat([batch["label"] for batch in module.seen])
        share[scope] = (labels == 2).flatten(1).any(1).double().mean().item()
    assert share["patch"] == 1.0
    assert 0.2 < share["volume"] < 1.0


def test_soft_labels_of_a_whole(cache, tmp_path):
    class Soft(Recorder):
        def training_step(self, batch, batch_idx):
            tumor = batch["label"] == 2
            assert batch["occupancy"].shape == tumor.shape
            assert not tumor.any() or batch["occupancy"][tumor].mean() > 0.5
            return super().training_step(batch, batch_idx)

    module = Soft()
    trainer_of(tmp_path, limit_val_batches=0).fit(module, data_of(cache, scope="volume", soft_labels=True, resident_gib=1.0))
    assert len(module.seen) == 4


# ---- asked to hold a tumour -------------------------------------------------------------------------------------------------------------


def steps(locator, preset, n):
    """Patches, each altered: organ in mm³, whether aimed at it, whether it holds tumour, and whether it was counted as skipped."""
    step, dataset = SynthesisStep(TumorSynthesizer(preset, prob=1.0).train()), PatchDataset(locator)
    for uid in range(n):
        sample = dataset[uid]
        image, label = sample["image"][None].float(), sample["label"][None]
        before = step.synthesizer.skipped
        _, new_label = step(image, label, sample["spacing_mm"], torch.tensor([uid]), sample["aimed"][None])
        i, j, k = sample["spacing_mm"]
        organ_mm3 = (label == 1).sum().item() * i * j * k
        yield organ_mm3, bool(sample["aimed"]), bool((new_label == 2).any()), step.synthesizer.skipped - before


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Two phantoms at 3 × 3 × 5 mm, livers of other shapes than an ellipsoid."""
    folder, spacing_mm = tmp_path_factory.mktemp("phantoms"), (3.0, 3.0, 5.0)
    for uid in range(2):
        scan = phantom(uid, (112, 96, 48), spacing_mm)
        for kind, data in (("ct", scan.image.round().to(torch.int16)), ("liver", scan.label)):
            (folder / kind).mkdir(exist_ok=True)
            save_nifti(folder / kind / f"{uid}.nii.gz", data[0, 0].numpy(), np.diag([*spacing_mm, 1.0]))
    prepare(images=folder / "ct", labels=folder / "liver", out=folder / "cache", spacing_mm=spacing_mm, workers=0)
    return load_manifest(folder / "cache")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_patch_that_was_asked_to_hold_a_tumour_holds_one(phantoms, preset, told):
    n, policy = 300, PatchPolicy(organ=1, border=1, background=0)
    check_asked(steps(PatchLocator(phantoms, phantoms.cases, (32, 32, 32), 0, policy), preset, n), n, f"phantoms, {preset}", told)


def check_asked(results, n, what, told):
    """At most one in a hundred holds none, and each of those is counted: that of one lesion there was no place clear of vessels, or that
    it was smaller than a voxel. The share is some two in a thousand; of 300, more than three would be drawn once in 300 times."""
    results = list(results)
    without = sum(not tumor for _, _, tumor, _ in results)
    told(f"patches centred on organ that hold no tumour: {what}", n, without / n, "0.01")
    assert len(results) == n
    assert without <= 0.01 * n
    assert all(aimed and skipped == (not tumor) for _, aimed, tumor, skipped in results)


@pytest.mark.real_ct
def test_so_does_a_patch_of_a_real_ct(tmp_path, told):
    """Over three CTs at 2 mm, two of which cut the liver."""
    files = {kind: str(real_ct() / f"*_{name}.nii.gz") for kind, name in (("images", "ct"), ("labels", "liver"))}
    manifest = prepare(**files, out=tmp_path, spacing_mm=SPACING_MM, workers=0)
    locator = PatchLocator(manifest, manifest.cases, (48, 48, 48), 0, PatchPolicy(organ=1, border=1, background=0))
    for preset in PRESETS:
        check_asked(steps(locator, preset, 300), 300, f"real CT, {preset}", told)


@pytest.mark.parametrize("preset", PRESETS)
def test_background_is_asked_where_it_holds_organ_enough_and_then_holds_one(phantoms, preset, told):
    """What holds less may or may not, and is never counted as skipped; what holds enough and no tumour always is."""
    locator = PatchLocator(phantoms, phantoms.cases, (16, 16, 8), 0, PatchPolicy(0, 0, 1))
    results = list(steps(locator, preset, 300))
    asked = [result for result in results if result[0] >= LEAST_ORGAN_MM3]
    assert sum(organ == 0 for organ, *_ in results) > 30
    assert len(asked) > 30
    assert not any(aimed for _, aimed, *_ in results)
    missed = sum(not tumor for _, _, tumor, _ in asked)
    told(f"background patches with organ enough that hold no tumour, {preset}", len(asked), missed, "5 %")
    assert missed <= 0.05 * len(asked)
    for organ_mm3, _, tumor, skipped in results:
        assert skipped == int(organ_mm3 >= LEAST_ORGAN_MM3 and not tumor)


def test_an_aimed_patch_that_cannot_hold_one_is_counted_as_skipped():
    """An organ of eight voxels: the first and the last sample were aimed at it, and the one between was not."""
    label = torch.zeros(3, 1, 24, 24, 24, dtype=torch.uint8)
    label[:, 0, 11:13, 11:13, 11:13] = 1
    image, uid = torch.full(label.shape, 100.0), torch.arange(3)
    for preset, figures in (("liver-hu2022", {}), ("liver", {"size_mm": (2.0, 2.5, 3.0, 3.5, 4.0)})):
        step = SynthesisStep(TumorSynthesizer(preset, prob=1.0, **figures).train())
        _, new_label = step(image, label, (0.5, 0.5, 0.5), uid, torch.tensor([True, False, True]))
        assert not (new_label == 2).any()
        assert step.synthesizer.skipped == 2
        step(image, label, (0.5, 0.5, 0.5), uid)
        assert step.synthesizer.skipped == 5, "where nothing is said of aims, all are asked"


def test_a_lesion_without_a_voxel_is_counted_as_skipped(monkeypatch):
    """A plan with lesions that come to nothing: never a patch that was asked to hold a tumour, holds none, and is not told."""
    step = SynthesisStep(TumorSynthesizer("liver", prob=1.0).train())
    label, uid = torch.ones(2, 1, 24, 24, 24, dtype=torch.uint8), torch.arange(2)
    image = torch.full(label.shape, 100.0)
    plan = step.synthesizer.plan
    monkeypatch.setattr(step.synthesizer, "plan", lambda *rest: (p := plan(*rest)).edit(radius_mm=torch.full(p.active.shape, 1e-3)))
    _, new_label = step(image, label, SPACING_MM, uid, torch.tensor([True, True]))
    assert not (new_label == 2).any()
    assert step.synthesizer.lesions > 0
    assert step.synthesizer.skipped == 2

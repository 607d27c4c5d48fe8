"""Preset "liver": whole lesions into scans, on torch operations and on kernels."""

import pytest
import torch
from emulator import emulated
from scans import ONE_MM, same, scans, uids
from twins import assert_same_images, assert_same_labels, on

from gpu_synth import TumorPlan, TumorSynthesizer, presets
from gpu_synth.lesion_plan import LesionPlan

SHAPE = (44, 40, 36)


def liver(backend="torch", **overrides):
    return TumorSynthesizer("liver", prob=1.0, seed=3, backend=backend, **overrides)


@pytest.fixture(params=["forward", "reversed", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch):
    if request.param == "cuda":
        return torch.device("cuda")
    emulated(monkeypatch, request.param)
    return torch.device("cpu")


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (0.7, 0.7, 5.0), [ONE_MM, ONE_MM, (1.5, 1.5, 3.0)]], ids=["1mm", "0.7-0.7-5mm", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_make_the_twins_lesions(device, dtype, spacing_mm):
    image, label = scans(3, SHAPE, dtype)
    label[1] = 0
    image[2, 0, 5:8] = torch.nan
    twin, kernel = liver(), liver("cupy")
    expected_plan, plan = twin.plan(image, label, spacing_mm, uids(3)), kernel.plan(*on(device, (image, label)), spacing_mm, uids(3))
    assert torch.equal(plan.active.cpu(), expected_plan.active)
    assert torch.equal(plan.organ_hu.cpu(), expected_plan.organ_hu)
    expected, got = twin.render(image, label, expected_plan), kernel.render(*on(device, (image, label)), plan)
    assert_same_labels(got.label, expected.label)
    assert_same_images(got.image, expected.image, 0.05 + 400 * torch.finfo(dtype).eps)
    assert same(got.image[1].cpu(), image[1])


def test_a_sample_is_the_same_alone_and_in_a_batch():
    image, label = scans(4, SHAPE)
    together = liver()(image, label, ONE_MM, uids(4))
    for n in (3, 0):
        alone = liver()(image[n : n + 1], label[n : n + 1], ONE_MM, uids(1, 1000 + n))
        assert same(alone[0][0], together[0][n])
        assert same(alone[1][0], together[1][n])


def test_a_plan_is_saved_loaded_edited_and_told(tmp_path):
    image, label = scans(2, SHAPE)
    synth = liver(count=(3, 3))
    plan = synth.plan(image, label, ONE_MM, uids(2))
    plan.save(tmp_path / "plan")
    loaded = TumorPlan.load(tmp_path / "plan")
    assert isinstance(loaded, LesionPlan)
    assert same(synth.render(image, label, loaded).image, synth.render(image, label, plan).image)

    shape = plan.active.shape
    asked = plan.edit(radius_mm=torch.full(shape, 6.0), contrast_hu=torch.full(shape, -40.0), centre_vox=torch.full((*shape, 3), 15.0))
    for record in asked.to_records():
        assert (record["radius_mm"], record["contrast_hu"], record["centre_vox"]) == (6.0, -40.0, (15.0, 15.0, 15.0))
        assert record["kind"] in {kind.name for kind in presets.get("liver").kinds}
    with pytest.raises(ValueError, match=r"radius_mm must be a tensor of shape \(2, 3\), got \(2,\)"):
        plan.edit(radius_mm=torch.ones(2))
    with pytest.raises(ValueError, match="radius_mm must be above 0, got 0"):
        plan.edit(radius_mm=torch.zeros(shape))


def test_what_came_out_is_told_beside_what_was_asked():
    image, label = torch.full((1, 1, 40, 40, 40), 100.0), torch.ones(1, 1, 40, 40, 40, dtype=torch.uint8)
    image = image + 5 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    dark = {"name": "dark", "prob": 1.0, "body": (-0.4, -0.4), "texture": (0.0, 0.0)}
    synth = liver(count=(1, 1), size_mm=(6.0, 6.1, 6.2, 6.3, 6.4), kinds=[dark], mass_effect=(0.0, 0.0))
    plan = synth.plan(image, label, ONE_MM, uids(1)).edit(centre_vox=torch.full((1, 1, 3), 12.0))
    out = synth.render(image, label, plan)
    (asked,), (came,) = plan.to_records(), out.records()
    assert came["kind"] == asked["kind"] == "dark"
    assert came["equivalent_radius_mm"] == pytest.approx(asked["radius_mm"], rel=0.05)
    assert came["centre_vox"] == pytest.approx((12.0, 12.0, 12.0), abs=1.0)
    assert came["mean_drop_hu"] == pytest.approx(40, rel=0.2)  # its edge is soft
    assert came["contrast_to_noise"] == pytest.approx(came["mean_drop_hu"] / asked["noise_hu"])
    inside = out.instances == came["lesion"]
    assert came["volume_mm3"] == inside.sum().item()
    assert out.occupancy[inside].mean() > 0.7
    assert out.occupancy[~inside].max() <= 0.5 + 1e-6


def test_a_small_lesion_can_be_seen():
    """Of 200 samples with noise of 15 HU, most have a lesion of 2 to 5 mm; each differs from its surroundings by the floor at least."""
    image, label = torch.full((1, 1, *SHAPE), 100.0), torch.ones(1, 1, *SHAPE, dtype=torch.uint8)
    image = (image + 15 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).expand(200, -1, -1, -1, -1)
    plan = liver(cnr_floor=2.0).plan(image, label.expand(200, -1, -1, -1, -1), ONE_MM, uids(200))
    records = plan.to_records()
    assert sum(record["radius_mm"] < 5 for record in records) / 200 > 1.0
    assert all(abs(record["contrast_hu"]) >= 2.0 * record["noise_hu"] - 1e-3 for record in records)
    assert all(record["noise_hu"] == pytest.approx(15, rel=0.1) for record in records)


def test_without_noise_without_organ_and_in_a_tiny_patch_nothing_breaks():
    for shape in ((3, 3, 3), (1, 7, 2), (40, 3, 40)):
        image, label = torch.full((2, 1, *shape), 60.0), torch.ones(2, 1, *shape, dtype=torch.uint8)
        label[1] = 0
        new_image, new_label = liver()(image, label, ONE_MM)
        assert new_image.isfinite().all()
        assert not (new_label[1] == 2).any()


def test_tissue_moves_out_of_the_way_and_only_near_lesions():
    image, label = scans(1, (60, 50, 44))
    still, moved = (liver(mass_effect=(push, push), count=(1, 1), size_mm=(7, 7.1, 7.2, 7.3, 7.4)) for push in (0.0, 40.0))
    plans = [synth.plan(image, label, ONE_MM, uids(1)) for synth in (still, moved)]
    assert torch.equal(plans[0].centre_vox, plans[1].centre_vox)
    images = [synth.render(image, label, plan).image[0, 0] for synth, plan in zip((still, moved), plans, strict=True)]
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (60, 50, 44)), indexing="ij"), -1)
    gap = (index - plans[0].centre_vox[0, 0]).norm(dim=-1)
    assert (images[0] != images[1])[gap < 9].any()
    assert torch.equal(images[0][gap > 11], images[1][gap > 11])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"size_prob": (0.5, 0.5, 0.5, 0.0)}, "size_prob must add up to 1"),
        ({"size_mm": (5, 2, 10, 20, 44)}, "size_mm must rise from above 0"),
        ({"count": (1, 99)}, "count must hold whole numbers up to 64"),
        ({"contrast": 3}, "preset field must be one of count, size_mm"),
        ({"kinds": ({"name": "x", "prob": 1.0, "body": (5, -5)},)}, "body of kind 'x' must be"),
        ({"mass_effect": 3}, "mass_effect must hold 2 finite numbers"),
        ({"graph": True, "backend": "auto"}, "graph must be False for preset 'liver'"),
    ],
)
def test_mistakes_in_a_preset_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        TumorSynthesizer("liver", **overrides)


def test_kinds_can_be_given_as_mappings_and_a_recipe_makes_another_one_like_it():
    image, label = scans(1, SHAPE)
    synth = liver(kinds=[{"name": "dark", "prob": 1.0, "body": [-0.5, -0.4]}])
    made = torch.ops.gpu_synth.synthesize(image, label, uids(1), list(ONE_MM), 3, synth.recipe)
    assert same(made[0], synth(image, label, ONE_MM, uids(1))[0])

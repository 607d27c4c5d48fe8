"""Preset "liver": whole lesions into scans, on torch operations and on kernels."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulator import emulated
from scans import ONE_MM, same, scans, uids
from scipy import ndimage
from twins import assert_same_images, assert_same_labels, on

from gpu_synth import TumorPlan, TumorSynthesizer, presets
from gpu_synth.kernels import _host
from gpu_synth.lesion_plan import NAMES, LesionPlan

SHAPE = (44, 40, 36)
ALL_ON = {"halo": (-0.2, 0.2), "satellite_prob": 1.0, "cluster_prob": 0.5, "cirrhosis_prob": 1.0, "spiculation": (0.0, 0.3)}

GROWTH = {"growth": True, "size_mm": (2.0, 3.0, 4.0, 6.0, 8.0), "satellite_from_mm": 5.0}


def with_vessels(b, shape=SHAPE, dtype=torch.float32):
    """Scans whose organ has bright tubes, as in the venous phase."""
    image, label = scans(b, shape)
    i, j = (torch.arange(n) % 20 < 4 for n in shape[:2])
    return (image + 70 * (i[:, None] & j)[..., None] * (label == 1)).to(dtype), label


def all_on(growth):
    """Every effect that there is, of lesions with an outline or of those that grow."""
    return {name: figure for name, figure in {**ALL_ON, **growth}.items() if not growth or name not in ("halo", "spiculation")}


def liver(backend="torch", **overrides):
    return TumorSynthesizer("liver", prob=1.0, seed=3, backend=backend, **overrides)


@pytest.fixture(params=["forward", "reversed", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch):
    if request.param == "cuda":
        return torch.device("cuda")
    emulated(monkeypatch, request.param)
    return torch.device("cpu")


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (0.7, 0.7, 5.0), [ONE_MM, ONE_MM, (1.5, 1.5, 3.0)]], ids=["1mm", "0.7-0.7-5mm", "mixed"])
@pytest.mark.parametrize(
    ("dtype", "growth"), [(torch.float32, {}), (torch.bfloat16, {}), (torch.float32, GROWTH)], ids=["float32", "bfloat16", "growth"]
)
def test_kernels_make_the_twins_lesions(device, dtype, growth, spacing_mm):
    image, label = with_vessels(3, SHAPE, dtype)
    label[1] = 0
    image[2, 0, 5:8] = torch.nan
    twin, kernel = liver(**all_on(growth)), liver("cupy", **all_on(growth))
    expected_plan, plan = twin.plan(image, label, spacing_mm, uids(3)), kernel.plan(*on(device, (image, label)), spacing_mm, uids(3))
    assert torch.equal(plan.active.cpu(), expected_plan.active)
    assert torch.equal(plan.organ_hu.cpu(), expected_plan.organ_hu)
    assert torch.equal(plan.foreign_hu.cpu(), expected_plan.foreign_hu)
    assert (expected_plan.foreign_hu[:, 0] > 0).tolist() == [True, False, True]
    expected, got = twin.render(image, label, expected_plan), kernel.render(*on(device, (image, label)), plan)
    assert_same_labels(got.label, expected.label)
    assert_same_images(got.image, expected.image, 0.05 + 400 * torch.finfo(dtype).eps)
    assert same(got.image[1].cpu(), image[1])


@pytest.mark.parametrize("overrides", [{}, ALL_ON, GROWTH], ids=["default", "all-on", "growth"])
def test_a_sample_is_the_same_alone_and_in_a_batch(overrides):
    image, label = with_vessels(4)
    together = liver(**overrides)(image, label, ONE_MM, uids(4))
    assert same(liver(**overrides)(image, label, ONE_MM, uids(4))[0], together[0])
    for n in (3, 0):
        alone = liver(**overrides)(image[n : n + 1], label[n : n + 1], ONE_MM, uids(1, 1000 + n))
        assert same(alone[0][0], together[0][n])
        assert same(alone[1][0], together[1][n])


@pytest.mark.parametrize("overrides", [{}, ALL_ON, GROWTH], ids=["default", "all-on", "growth"])
def test_no_value_is_read_back(overrides):
    """On the meta device, where there are no values: reading one, by item, nonzero, mask or copy to the host, raises."""
    image, label = (x.to("meta") for x in scans(3, SHAPE, torch.float16))
    spacing_mm = [ONE_MM, (0.7, 0.7, 5.0), (0.7, 0.7, 5.0)]
    synth = liver(**overrides)
    assert [x.device.type for x in synth(image, label, spacing_mm)] == ["meta", "meta"]
    plan = synth.plan(image, label, spacing_mm, uids(3))
    assert synth.render(image, label, plan).occupancy.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        _ = synth.lesions  # so reading would have been noticed


@pytest.mark.parametrize("overrides", [ALL_ON, GROWTH], ids=["all-on", "growth"])
def test_what_a_host_looks_at_changes_nothing(overrides, monkeypatch):
    image, label = with_vessels(2)
    synth = liver(**overrides)
    plan = synth.plan(image, label, ONE_MM, uids(2))
    looking = synth.render(image, label, plan)
    monkeypatch.setattr(_host, "on_host", lambda device: False)
    blind_plan = synth.plan(image, label, ONE_MM, uids(2))
    assert torch.equal(blind_plan.active, plan.active)
    blind = synth.render(image, label, plan)
    assert torch.equal(blind.instances, looking.instances)
    assert same(blind.label, looking.label)
    torch.testing.assert_close(blind.image, looking.image, rtol=0, atol=1e-3)


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (0.7, 0.7, 3.0)], ids=["1mm", "0.7-0.7-3mm"])
@pytest.mark.parametrize("growth", [{}, GROWTH], ids=["outlines", "growth"])
def test_a_crop_of_a_render_is_a_render_of_the_crop(growth, spacing_mm):
    """Every effect on: they agree but for 8 voxels within the crop's border; what cirrhosis has there, mass effect and vessels hand on."""
    image, label = with_vessels(2, (72, 60, 48))
    figures = {**all_on(growth), "count": (6, 6), "cluster_prob": 0.0, "avoid_vessels_to_mm": 2.0}
    synth = liver(scope="volume", **figures)
    plan = synth.plan(image, label, spacing_mm, uids(2))
    whole = synth.render(image, label, plan)
    crop, inner = (slice(None), slice(None), slice(9, 53), slice(12, 50), slice(7, 40)), (slice(None), slice(None), *(slice(8, -8),) * 3)
    part = synth.render(image[crop], label[crop], plan, (9, 12, 7))
    assert (plan.foreign_hu > 0).all()
    assert (part.label[inner] == 2).sum() > 100
    assert torch.equal(part.label[inner], whole.label[crop][inner])
    assert torch.equal(part.instances[inner], whole.instances[crop][inner])
    torch.testing.assert_close(part.image[inner], whole.image[crop][inner], rtol=0, atol=1.0)


def test_a_plan_is_saved_loaded_edited_and_told(tmp_path):
    image, label = scans(2, SHAPE)
    synth = liver(count=(3, 3), satellite_prob=0.0)
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
    with pytest.raises(ValueError, match=r"noise_hu, .*radius_mm, .*got 'radius'; did you mean 'radius_mm'"):
        plan.edit(radius=torch.ones(shape))
    with pytest.raises(ValueError, match=r"radius_mm must be a tensor of shape \(2, 3\), got \(2,\)"):
        plan.edit(radius_mm=torch.ones(2))


LIMITS = [
    ("radius_mm", 0.0, "radius_mm must lie in (0, 1000], got 0"),
    ("radius_mm", 1001.0, "radius_mm must lie in (0, 1000], got 1001"),
    ("texture_mm", -1.0, "texture_mm must lie in (0, 1000], got -1"),
    ("edge_sigma_mm", 2000.0, "edge_sigma_mm must lie in (0, 1000], got 2000"),
    ("halo_mm", 0.0, "halo_mm must lie in (0, 1000], got 0"),
    ("mass_effect", 101.0, "mass_effect must lie in [0, 100], got 101"),
    ("mass_effect", -0.5, "mass_effect must lie in [0, 100], got -0.5"),
    ("core_share", 1.5, "core_share must lie in [0, 1], got 1.5"),
    ("contrast_hu", float("nan"), "contrast_hu must be a finite number, got nan"),
    ("centre_vox", (1.0, 2.0, 99.0), f"centre_vox must lie in the image of {SHAPE} voxels, got (1.0, 2.0, 99.0)"),
    ("centre_vox", (-0.6, 2.0, 9.0), "centre_vox must lie in the image of"),
]


@pytest.mark.parametrize(("name", "value", "says"), LIMITS, ids=[f"{name}-{value}" for name, value, _ in LIMITS])
def test_a_plan_is_edited_within_the_limits_of_what_can_be_asked_for(name, value, says, tmp_path):
    """Asked for, edited by name, or read from a file that was meddled with: one limit, one sentence."""
    image, label = scans(1, SHAPE)
    synth = liver(count=(3, 3), satellite_prob=0.0)
    with pytest.raises(ValueError, match=re.escape(says)):
        synth.plan(image, label, ONE_MM, uids(1), lesions=[{name: value}])
    plan = synth.plan(image, label, ONE_MM, uids(1))
    assert plan.active[0, 0]
    new = plan.centre_vox.clone() if name == "centre_vox" else plan.lesion[..., NAMES[name]].clone()
    new[0, 0] = torch.tensor(value)
    with pytest.raises(ValueError, match=re.escape(says)):
        plan.edit(**{name: new})
    if name != "centre_vox" and value == value:
        meddled = plan.lesion.clone()
        meddled[0, 0, NAMES[name]] = value
        replace(plan, lesion=meddled).save(tmp_path / "plan")
        with pytest.raises(ValueError, match=re.escape(says)):
            TumorPlan.load(tmp_path / "plan")


def test_a_plan_of_grown_lesions_takes_no_outline_and_no_halo():
    image, label = scans(1, SHAPE)
    synth = liver(**GROWTH)
    plan = synth.plan(image, label, ONE_MM, uids(1))
    for name in ("spiculation", "halo_hu", "halo_mm"):
        says = f"{name} must be left out where growth is True, got .*; lesions that grow have no outline and no halo"
        with pytest.raises(ValueError, match=says):
            synth.plan(image, label, ONE_MM, uids(1), lesions=[{name: 2.0}])
        with pytest.raises(ValueError, match=says):
            plan.edit(**{name: plan.lesion[..., NAMES[name]]})


def test_what_came_out_is_told_beside_what_was_asked():
    image, label = torch.full((1, 1, 40, 40, 40), 100.0), torch.ones(1, 1, 40, 40, 40, dtype=torch.uint8)
    image = image + 5 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    dark = {"name": "dark", "prob": 1.0, "body": (-0.4, -0.4), "texture": (0.0, 0.0)}
    synth = liver(count=(1, 1), size_mm=(6.0, 6.1, 6.2, 6.3, 6.4), kinds=[dark], mass_effect=(0.0, 0.0))
    plan = synth.plan(image, label, ONE_MM, uids(1), lesions=[{"centre_vox": (12, 12, 12)}])
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


def test_a_lesion_that_the_border_cuts_says_so():
    """One at each of two borders, one within, one that only comes near; of a crop, that which the crop cuts."""
    image, label = torch.full((1, 1, 48, 40, 44), 100.0), torch.ones(1, 1, 48, 40, 44, dtype=torch.uint8)
    still = {"mass_effect": (0.0, 0.0), "bulge": (0.0, 0.0), "cirrhosis_prob": 0.0, "axis_ratio": (1.0, 1.0)}
    synth = liver(scope="volume", **still)
    ball = {"radius_mm": 5.0, "irregularity": 0.0, "lobulation": 0.0}
    centres = [(2, 20, 10), (40, 20, 41), (24, 20, 22), (8, 8, 30)]
    plan = synth.plan(image, label, ONE_MM, uids(1), lesions=[{**ball, "centre_vox": centre} for centre in centres])
    records = synth.render(image, label, plan).records()
    assert [record["cut_by_border"] for record in records] == [True, True, False, False]
    assert [record["equivalent_radius_mm"] < 4.8 for record in records] == [True, True, False, False]
    crop = (..., slice(0, 48), slice(0, 40), slice(0, 25))
    part = synth.render(image[crop].contiguous(), label[crop].contiguous(), plan, (0, 0, 0)).records()
    assert {record["lesion"]: record["cut_by_border"] for record in part} == {1: True, 3: True}


def test_a_lesion_that_grows_turns_at_the_border_and_is_not_cut_by_it():
    image, label = torch.full((1, 1, 32, 32, 32), 100.0), torch.ones(1, 1, 32, 32, 32, dtype=torch.uint8)
    synth = liver(**GROWTH, mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), cirrhosis_prob=0.0, scope="volume")
    plan = synth.plan(image, label, ONE_MM, uids(1), lesions=[{"radius_mm": 5.0, "centre_vox": (2, 16, 16)}])
    (whole,) = synth.render(image, label, plan).records()
    assert (whole["cut_by_border"], whole["equivalent_radius_mm"]) == (False, pytest.approx(5.0, rel=0.02))
    (cut,) = synth.render(image[..., :14].contiguous(), label[..., :14].contiguous(), plan, (0, 0, 0)).records()
    assert cut["cut_by_border"]
    assert cut["volume_mm3"] < whole["volume_mm3"]


def test_what_is_asked_for_is_what_comes():
    """Two samples: three lesions in the one, one in the other; what is not asked for is drawn as the kind has it."""
    image, label = torch.full((2, 1, 48, 48, 48), 110.0), torch.ones(2, 1, 48, 48, 48, dtype=torch.uint8)
    first = [
        {"radius_mm": 4.0, "centre_vox": (10, 12, 14), "contrast_hu": -30.0},
        {"kind": "cyst", "radius_mm": 7.0},
        {"kind": "target", "radius_mm": 3.0, "centre_vox": (36, 30, 40)},
    ]
    synth = liver(mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), cirrhosis_prob=0.0)
    plan = synth.plan(image, label, ONE_MM, uids(2), lesions=[first, [{"radius_mm": 5.0}]])
    records = plan.to_records()
    assert [(r["uid"], r["lesion"]) for r in records] == [(1000, 1), (1000, 2), (1000, 3), (1001, 1)]
    assert [r["radius_mm"] for r in records] == [4.0, 7.0, 3.0, 5.0]
    assert records[0]["centre_vox"] == (10.0, 12.0, 14.0)
    assert records[0]["contrast_hu"] == -30.0
    assert [r["kind"] for r in records[1:3]] == ["cyst", "target"]
    assert 0.0 <= records[1]["contrast_hu"] + 110.0 <= 18.0
    assert records[2]["rim_hu"] >= 0.2 * 110.0
    came = synth.render(image, label, plan).records()
    assert len(came) == 4
    for asked, got in zip(records, came, strict=True):
        assert got["equivalent_radius_mm"] == pytest.approx(asked["radius_mm"], rel=0.06)


def test_grown_lesions_have_their_volume_and_their_plan_is_saved(tmp_path, told):
    """24 lesions of 5 mm, 1 mm grid: within 5 %; each is one piece, and rendered again from a file."""
    image, label = torch.full((24, 1, 32, 32, 32), 100.0), torch.ones(24, 1, 32, 32, 32, dtype=torch.uint8)
    synth = liver(**GROWTH, mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), cirrhosis_prob=0.0)
    plan = synth.plan(image, label, ONE_MM, uids(24), lesions=[{"radius_mm": 5.0, "centre_vox": (16, 16, 16)}])
    out = synth.render(image, label, plan)
    volume = (out.label == 2).flatten(1).sum(1).double()
    farthest = (volume / (4 / 3 * torch.pi * 125) - 1).abs().max().item()
    told("volume of grown lesions of 5 mm, realised over requested: the farthest off", 24, farthest, "≤ 0.05")
    assert farthest < 0.05
    assert all(ndimage.label(number[0].numpy(), np.ones((3, 3, 3)))[1] == 1 for number in out.instances)
    assert out.occupancy[out.label == 2].mean() > 0.7
    plan.save(tmp_path / "plan")
    assert same(synth.render(image, label, TumorPlan.load(tmp_path / "plan")).image, out.image)
    with pytest.raises(ValueError, match="radius_mm must be left as it is"):
        plan.edit(radius_mm=torch.full(plan.active.shape, 6.0))


@pytest.mark.parametrize(
    ("lesions", "message"),
    [
        ([{"size": 3}], "what is asked of a lesion must be one of kind, centre_vox, radius_mm"),
        ([{"radius": 3}], "got 'radius'; did you mean 'radius_mm'"),
        ([{"kind": "wart"}], "kind must be one of hypodense, hyperdense"),
        ([{"radius_mm": 0}], r"radius_mm must lie in \(0, 1000\], got 0"),
        ([{"centre_vox": (1, 2)}], "centre_vox must hold three numbers"),
        ([{"contrast_hu": float("nan")}], "contrast_hu must be a finite number"),
        ([{"centre_vox": (1, 2, 99)}], "centre_vox must lie in the image of"),
        ([{"radius_mm": True}], "radius_mm must be a finite number, got True"),
        ([{"mass_effect": 500.0}], r"mass_effect must lie in \[0, 100\], got 500"),
        ([{"mass_effect": -5.0}], r"mass_effect must lie in \[0, 100\], got -5"),
        ([{"irregularity": -0.1}], r"irregularity must lie in \[0, inf\], got -0.1"),
        ([{"core_share": 1.5}], r"core_share must lie in \[0, 1\], got 1.5"),
        ([[{}], [{}], [{}]], "lesions must hold a list for each of 2 samples, got 3"),
    ],
)
def test_what_cannot_be_had_is_refused(lesions, message):
    image, label = scans(2, SHAPE)
    with pytest.raises(ValueError, match=message):
        liver().plan(image, label, ONE_MM, uids(2), lesions=lesions)


def test_wishes_are_not_for_the_published_method_and_a_map_must_fit():
    image, label = scans(2, SHAPE)
    with pytest.raises(ValueError, match="must be None for preset 'liver-hu2022'"):
        TumorSynthesizer("liver-hu2022").plan(image, label, ONE_MM, uids(2), lesions=[{}])
    with pytest.raises(ValueError, match=r"where must be a tensor of the image's shape \(2, 1, 44, 40, 36\), got \(2, 44, 40, 36\)"):
        liver().plan(image, label, ONE_MM, uids(2), where=torch.ones(2, *SHAPE))


def test_a_map_in_any_unit_puts_lesions_where_it_says():
    image, label = scans(8, SHAPE)
    where = torch.zeros_like(image)
    where[:, :, 20:24, 10:20] = 1e-7
    where[0] = torch.nan
    plan = liver(count=(1, 1), size_mm=(2.0, 2.1, 2.2, 2.3, 2.4)).plan(image, label, ONE_MM, uids(8), where=where)
    assert not plan.active[0].any()
    assert plan.skipped[0]
    centre = plan.centre_vox[1:][plan.active[1:]]
    assert len(centre) > 4
    assert ((centre[:, 0] >= 19.5) & (centre[:, 0] <= 23.5) & (centre[:, 1] >= 9.5) & (centre[:, 1] <= 19.5)).all()


def test_a_small_lesion_can_be_seen():
    """Of 200 samples with noise of 15 HU, most have a lesion of 2 to 5 mm; each differs from its surroundings by the floor at least."""
    image, label = torch.full((1, 1, *SHAPE), 100.0), torch.ones(1, 1, *SHAPE, dtype=torch.uint8)
    image = (image + 15 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).expand(200, -1, -1, -1, -1)
    plan = liver(cnr_floor=2.0).plan(image, label.expand(200, -1, -1, -1, -1), ONE_MM, uids(200))
    records = plan.to_records()
    assert sum(record["radius_mm"] < 5 for record in records) / 200 > 1.0
    for record in records:
        mean_hu = record["contrast_hu"] + record["core_hu"] * record["core_share"] ** 3 + 0.39 * record["rim_hu"]
        mean_hu += record["capsule_hu"] * min(1.0, 3.76 * record["capsule_mm"] / record["radius_mm"])
        assert abs(mean_hu) >= 2.0 * record["noise_hu"] - 1e-3, record
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
        ({"count": (1, 99)}, "count and satellites must come to 1 to 64, got 99"),
        ({"count": (1, 2.5)}, "count must hold whole numbers"),
        ({"satellites": (0, 0)}, "satellites must be above 0 where satellite_prob is"),
        ({"cirrhosis_prob": 1.5}, r"cirrhosis_prob must lie in \[0, 1\]"),
        ({"count": (0, 0)}, "count and satellites must come to 1 to 64"),
        ({"cnr_floor": -1}, "cnr_floor must be a finite number from 0 on"),
        ({"surface_mm": (0, 0)}, "surface_mm must be above 0 where cirrhosis_prob is"),
        ({"kinds": None}, "kinds must be a list"),
        ({"kinds": [{"name": "x", "prob": 1.0, "body": (0, 1), "contrast": 3}]}, "a kind's fields must be among name, prob, body"),
        ({"kinds": [{"name": "x", "prob": 1.0}]}, "a kind must have name, prob and body, got one without 'body'"),
        ({"kinds": [{"name": "x", "prob": 1.0, "body": 0.3}]}, "body of kind 'x' must be"),
        ({"kinds": [{"name": "x", "prob": 1.0, "body": (0, 1), "edge": (1, 2)}]}, "edge of kind 'x' must be a finite number"),
        ({"growth": "yes"}, "growth must be true or false"),
        ({"bulge": (50, 120)}, "mass_effect and bulge must be 100 percent at most"),
        ({"kinds": ({"name": "x", "prob": 1.0, "body": (0, 1), "capsule_mm": 0},)}, "capsule_mm of kind 'x' must be above 0"),
        ({"contrast": 3}, "preset field must be one of count, size_mm"),
        ({"kinds": ({"name": "x", "prob": 1.0, "body": (5, -5)},)}, "body of kind 'x' must be"),
        ({"kinds": [{"name": "a", "prob": 1.0, "body": (0, 1), "core_share": (0.5, 1.5)}]}, "core_share of kind 'a' must be 1 at most"),
        ({"mass_effect": 3}, "mass_effect must hold 2 finite numbers"),
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

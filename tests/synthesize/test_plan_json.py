"""Plans as JSON: the way there and back is exact, and what is edited there is what changes."""

import json

import pytest
import torch

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.synthesize.plan_json import plan_from_json, plan_to_json

SPACING_MM = (3.0, 3.0, 4.0)


@pytest.fixture(scope="module")
def scan():
    return phantom(1, (96, 72, 50), SPACING_MM, seed=4)


def planned(scan, preset, **overrides):
    synth = TumorSynthesizer(preset, prob=1.0, seed=9, scope="volume", **overrides)
    plan = synth.plan(scan.image, scan.label, SPACING_MM, torch.tensor([2**51 + 3]))
    assert plan.active.sum() > 1
    return synth, plan


def through_a_file(plan):
    return json.loads(json.dumps(plan_to_json(plan), allow_nan=False))


@pytest.mark.parametrize(
    ("preset", "overrides"), [("liver", {}), ("liver", {"cirrhosis_prob": 1.0}), ("liver-growth", {}), ("liver-hu2022", {})]
)
def test_there_and_back_is_the_same_plan(scan, preset, overrides):
    synth, plan = planned(scan, preset, **overrides)
    back = plan_from_json(through_a_file(plan))
    assert type(back) is type(plan)
    assert back._host() == plan._host()
    assert back.spacing_mm == plan.spacing_mm
    for name, tensor in plan.tensors().items():
        assert tensor.dtype == back.tensors()[name].dtype
        assert torch.equal(tensor.nan_to_num(), back.tensors()[name].nan_to_num()), name
    a, b = (synth.render(scan.image, scan.label, which) for which in (plan, back))
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.label, b.label)


def test_it_shows_what_the_records_show(scan):
    for preset in ("liver", "liver-hu2022"):
        _, plan = planned(scan, preset)
        document = plan_to_json(plan)
        assert document["uid"] == 2**51 + 3
        for lesion, record in zip(document["lesions"], plan.to_records(), strict=True):
            assert lesion["centre_vox"] == pytest.approx(record["centre_vox"])
            assert lesion["lesion"] == record["lesion"]
            traits = ("kind", "radius_mm", "contrast_hu") if preset == "liver" else ("base_radius_mm",)
            assert all(lesion[name] == record[name] for name in traits)


def test_the_published_plans_lesions_can_be_edited(scan):
    synth, plan = planned(scan, "liver-hu2022", class_prob=(0, 1, 0, 0, 0))
    document = through_a_file(plan)
    first, second = document["lesions"][:2]
    first["centre_vox"] = [first["centre_vox"][0] + 1.4, *first["centre_vox"][1:]]
    second["radii_mm"] = [5.0, 6.0, 7.0]
    document["scan"]["contrast_hu"] = -30.0
    edited = plan_from_json(document)
    slots = [lesion["lesion"] - 1 for lesion in (first, second)]
    assert edited.centre_vox[0, slots[0]].tolist() == (plan.centre_vox[0, slots[0]] + torch.tensor([1, 0, 0])).tolist()
    assert edited.radii_mm[0, slots[1]].tolist() == [5.0, 6.0, 7.0]
    assert edited.contrast_hu.tolist() == [-30.0]
    assert torch.equal(edited.active, plan.active)
    fainter, before = (synth.render(scan.image, scan.label, which) for which in (edited, plan))
    assert (fainter.image - scan.image).min() > -40 > (before.image - scan.image).min()
    document["lesions"][1]["radii_mm"] = [500.0, 6.0, 7.0]
    with pytest.raises(ValueError, match="radii_mm must stay within what the preset can draw"):
        plan_from_json(document)


def test_a_lesion_that_has_grown_stays_where_it_is(scan):
    _, plan = planned(scan, "liver-growth")
    document = through_a_file(plan)
    document["lesions"][0]["contrast_hu"] = -44.0
    number = document["lesions"][0]["lesion"]
    assert {record["lesion"]: record for record in plan_from_json(document).to_records()}[number]["contrast_hu"] == -44.0
    document["lesions"][0]["radius_mm"] *= 2
    with pytest.raises(ValueError, match="radius_mm must be left as it is"):
        plan_from_json(document)


def test_scan_figures_of_several_numbers_keep_their_number(scan):
    _, plan = planned(scan, "liver", cirrhosis_prob=1.0)
    document = through_a_file(plan)
    document["scan"]["cirrhosis"] = [0.0, 0.0]
    assert plan_from_json(document).cirrhosis.tolist() == [[0.0, 0.0]]
    for wrong in (0.0, [0.0], "none"):
        document["scan"]["cirrhosis"] = wrong
        with pytest.raises(ValueError, match="cirrhosis must be 2 numbers"):
            plan_from_json(document)


def test_a_plan_of_several_samples_is_refused(scan):
    _, plan = planned(scan, "liver")
    with pytest.raises(ValueError, match=r"plan must be of one sample, got 2; write them one by one"):
        plan_to_json(plan[[0, 0]])

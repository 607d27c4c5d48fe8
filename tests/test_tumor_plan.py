"""A plan as data: taken apart, joined, moved, saved, edited, read."""

import json
import pickle
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from scans import MIX, ONE_MM, TINY, organ, same, scans, uids

from gpu_synth import TumorPlan, TumorSynthesizer


@pytest.fixture
def synth():
    return TumorSynthesizer("liver-hu2022", prob=1.0, seed=4, class_prob=TINY)


@pytest.fixture
def plan(synth):
    image, label = scans(4)
    return synth.plan(image, label, [ONE_MM, (0.7, 0.7, 5.0), ONE_MM, (2.0, 1.5, 1.0)], uids(4))


def equal(a, b):
    hosts = all(getattr(a, name) == getattr(b, name) for name in ("seed", "scope", "whole_vox", "spacing_mm", "bounds"))
    return hosts and a.tensors().keys() == b.tensors().keys() and all(same(x, b.tensors()[name]) for name, x in a.tensors().items())


# ---- taking and joining -----------------------------------------------------------------------------------------------------------------


def test_a_part_is_the_plan_of_those_samples(plan):
    assert len(plan) == 4
    assert equal(plan[:], plan)
    assert plan[1:3].uid.tolist() == [1001, 1002]
    assert plan[1:3].spacing_mm == ((0.7, 0.7, 5.0), ONE_MM)
    assert plan[-1].uid.tolist() == [1003]
    assert plan[::-1].uid.tolist() == [1003, 1002, 1001, 1000]
    assert plan[[2, 0, 2]].uid.tolist() == [1002, 1000, 1002]
    with pytest.raises(IndexError):
        plan[4]


def test_parts_join_to_the_whole(plan):
    assert equal(TumorPlan.cat([plan[:1], plan[1:3], plan[3]]), plan)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        pytest.param({"seed": 5}, "seed", id="seed"),
        pytest.param({"scope": "volume"}, "scope", id="scope"),
        pytest.param({"edge_sigma_mm": (1, 3)}, "bounds", id="preset"),
    ],
)
def test_plans_of_different_runs_do_not_join(plan, other, name):
    image, label = scans(1)
    stranger = TumorSynthesizer("liver-hu2022", **{"prob": 1.0, "seed": 4, "class_prob": TINY, **other}).plan(image, label, ONE_MM, uids(1))
    with pytest.raises(ValueError, match=f"plans must agree in {name}, got .*; render them one by one"):
        TumorPlan.cat([plan, stranger])


def test_nothing_does_not_join():
    with pytest.raises(ValueError, match="plans must hold at least one plan, got none"):
        TumorPlan.cat([])


def test_moves_to_a_device_as_a_whole(plan):
    moved = plan.to("meta")
    assert moved.device == torch.device("meta")
    assert all(tensor.device.type == "meta" for tensor in moved.tensors().values())
    assert plan.device == torch.device("cpu")


# ---- files ------------------------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(plan, tmp_path):
    path = tmp_path / "plan.safetensors"
    plan.save(path)
    assert equal(TumorPlan.load(path), plan)
    plan[:2].save(path)  # again, over it
    assert equal(TumorPlan.load(str(path)), plan[:2])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_seeds_and_uids_of_64_bits_survive_a_file(tmp_path):
    image, label = scans(2)
    plan = TumorSynthesizer("liver-hu2022", seed=-(2**63)).plan(image, label, (1 / 3, 0.1, 2.0), torch.tensor([2**63 - 1, -1]))
    plan.save(tmp_path / "plan")
    assert equal(TumorPlan.load(tmp_path / "plan"), plan)


def test_an_interrupted_save_leaves_the_old_file(plan, tmp_path, monkeypatch):
    path = tmp_path / "plan.safetensors"
    plan[:1].save(path)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        plan.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert equal(TumorPlan.load(path), plan[:1])


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


def _write_pickle(path):
    path.write_bytes(pickle.dumps(Trap()))


def _write_torch(path):
    torch.save(Trap(), path)


def _write_other(path):
    save_file({"weight": torch.ones(3)}, path)


def _write_other_format(path):
    save_file({"uid": torch.ones(3)}, path, {"plan": json.dumps({"format": "gpu-synth plan 99"})})


def _write_part(path):
    save_file({"uid": torch.ones(3)}, path, {"plan": json.dumps({"format": "gpu-synth plan 1", "seed": 3, "bounds": {}})})


def _write_nothing(path):
    path.write_bytes(b"")


def _write_text(path):
    save_file({"uid": torch.ones(3)}, path, {"plan": "{"})


@pytest.mark.parametrize(
    "write", [_write_pickle, _write_torch, _write_other, _write_other_format, _write_part, _write_nothing, _write_text]
)
def test_other_files_are_refused_by_name(write, tmp_path):
    path = tmp_path / "other"
    write(path)
    with pytest.raises(ValueError, match=rf"path must be a plan that its save wrote, got {re.escape(str(path))}"):
        TumorPlan.load(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        pytest.param("radii_mm", lambda x: x[:, :5], r"radii_mm must be .* of shape \(4, 28, 3\), got .* of shape \(4, 5, 3\)", id="slots"),
        pytest.param("uid", lambda x: x[:2], r"uid must be .* of shape \(4,\), got torch.int64 of shape \(2,\)", id="batch"),
        pytest.param("elastic_mm", lambda x: x[..., 0], "elastic_mm must be", id="rank"),
        pytest.param("active", lambda x: x.float(), "active must be .*Bool.*, got torch.float32", id="type"),
        pytest.param("contrast_hu", lambda x: x * torch.nan, "contrast_hu must be finite", id="nan"),
        pytest.param("texture_gain", lambda x: x / 0, "texture_gain must be finite", id="infinite"),
        pytest.param("radii_mm", lambda x: x * 10, "radii_mm must stay within", id="beyond-its-box"),
        pytest.param("spacing_mm", lambda x: ((1.0, 0.0, 1.0), *x[1:]), "spacing_mm and whole_vox must hold three numbers", id="spacing"),
        pytest.param("spacing_mm", lambda x: ((1.0, 1.0), *x[1:]), "spacing_mm and whole_vox must hold three numbers", id="two-axes"),
        pytest.param("whole_vox", lambda x: x[:2], "spacing_mm and whole_vox must hold three numbers", id="flat"),
    ],
)
def test_damaged_plans_are_refused_when_they_are_read(plan, tmp_path, name, change, message):
    replace(plan, **{name: change(getattr(plan, name))}).save(tmp_path / "plan")
    with pytest.raises(ValueError, match=f"path must be a plan .*{message}"):
        TumorPlan.load(tmp_path / "plan")


def test_a_plan_of_no_samples_survives_a_file(plan, tmp_path):
    plan[:0].save(tmp_path / "plan")
    assert equal(TumorPlan.load(tmp_path / "plan"), plan[:0])


def test_cut_and_missing_files_are_refused(plan, tmp_path):
    path = tmp_path / "plan"
    plan.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="path must be a plan"):
        TumorPlan.load(path)
    with pytest.raises(FileNotFoundError):
        TumorPlan.load(tmp_path / "none")


# ---- editing ----------------------------------------------------------------------------------------------------------------------------


def test_an_edited_plan_renders_what_it_says(synth):
    image, label = scans(1)
    label[:] = 1
    plan = synth.plan(image, label, ONE_MM, uids(1))
    centre, radii, active = plan.centre_vox.clone(), plan.radii_mm.clone(), torch.zeros_like(plan.active)
    centre[0, 3], radii[0, 3], active[0, 3] = torch.tensor([20, 10, 13]), torch.tensor([6.0, 4.0, 3.0]), True
    edited = plan.edit(centre_vox=centre, radii_mm=radii, active=active, elastic_mm=torch.zeros_like(plan.elastic_mm))
    out = synth.render(image, label, edited)
    i, j, k = torch.meshgrid(*(torch.arange(n) for n in image.shape[2:]), indexing="ij")
    ball = ((i - 20) / 6) ** 2 + ((j - 10) / 4) ** 2 + ((k - 13) / 3) ** 2 < 1 - 1e-5
    assert torch.equal(out.instances[0, 0] == 4, ball)
    assert torch.equal(out.label[0, 0] == 2, ball)
    assert plan.active.sum() >= 3  # the plan itself is unchanged


def test_contrast_scales_the_drop(synth):
    image, label = scans(2, dtype=torch.float64)
    plan = synth.plan(image, label, ONE_MM, uids(2))
    once = synth.render(image, label, plan).image - image
    twice = synth.render(image, label, plan.edit(contrast_hu=-2 * plan.contrast_hu)).image - image
    assert once.min() < -10
    torch.testing.assert_close(twice, -2 * once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        pytest.param("radius_mm", lambda x: x, "plan field must be one of uid, skipped, active, .*, got 'radius_mm'", id="unknown"),
        pytest.param("radii_mm", lambda x: x[:, :5], r"radii_mm must be a tensor of shape \(1, 28, 3\), got .* \(1, 5, 3\)", id="shape"),
        pytest.param("contrast_hu", lambda x: [-50.0], r"contrast_hu must be a tensor of shape \(1,\), got list", id="list"),
        pytest.param("contrast_hu", lambda x: x * torch.nan, "contrast_hu must be finite", id="nan"),
        pytest.param("radii_mm", lambda x: x * 4, "radii_mm must stay within .* make the plan with wider ranges", id="beyond-the-box"),
        pytest.param("edge_sigma_mm", lambda x: x + 5, r"edge_sigma_mm must stay within what the preset can draw \(0 to 2;", id="edge"),
        pytest.param("grain_sigma_mm", lambda x: x * 0 + 1, "grain_sigma_mm must stay within", id="finer-than-its-cells"),
    ],
)
def test_edits_that_could_not_be_rendered_are_refused(plan, name, change, message):
    plan = plan[:1]
    with pytest.raises(ValueError, match=message):
        plan.edit(**{name: change(plan.tensors().get(name, plan.radii_mm))})


# ---- reading ----------------------------------------------------------------------------------------------------------------------------


def test_records_list_what_was_asked_for():
    image, label = scans(5)
    label[1] = 0
    plan = TumorSynthesizer("liver-hu2022", prob=1.0, seed=4, class_prob=MIX).plan(image, label, ONE_MM, uids(5))
    records = plan.to_records()
    assert len(records) == plan.active.sum()
    assert {record["uid"] for record in records} == {1000, 1002, 1003, 1004}
    json.dumps(records)  # plain
    inside = organ()
    for record in records:
        sample, slot = record["uid"] - 1000, record["lesion"] - 1
        assert inside[record["centre_vox"]]
        assert record["radii_mm"] == tuple(plan.radii_mm[sample, slot].tolist())
        assert record["contrast_hu"] == plan.contrast_hu[sample].item()
        assert -145 <= record["contrast_hu"] <= -65


def test_records_of_a_render_list_what_came_out():
    image, label = scans(3, dtype=torch.float64)
    image[0, 0, 20, 20, :] = torch.nan
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, seed=4, class_prob=TINY)
    spacing = [ONE_MM, (0.7, 0.7, 2.5), ONE_MM]
    out = synth.render(image, label, synth.plan(image, label, spacing, uids(3)))
    records = out.records()
    json.dumps(records)
    assert {(record["uid"] - 1000, record["lesion"]) for record in records} == {
        (sample, number) for sample in range(3) for number in out.instances[sample].unique().tolist() if number
    }
    for record in records:
        sample = record["uid"] - 1000
        voxels = (out.instances[sample] == record["lesion"]) & image[sample].isfinite()
        volume = (out.instances[sample] == record["lesion"]).sum().item() * torch.tensor(spacing[sample]).prod().item()
        assert record["volume_mm3"] == pytest.approx(volume, rel=1e-6)
        assert record["mean_drop_hu"] == pytest.approx((image - out.image)[sample][voxels].mean().item())

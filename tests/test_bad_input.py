"""What a synthesizer refuses at once: each message names the argument, what it must be, what it was and, where there is one, the mend."""

import re

import numpy as np
import pytest
import torch
from scans import ONE_MM, scans, uids

from gpu_synth import TumorSynthesizer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"preset": "liver-hu"},
            "preset must be one of liver-hu2022, liver, liver-growth, pancreas, kidney, got 'liver-hu'; did you mean 'liver-hu2022'?",
            id="preset",
        ),
        pytest.param({"prob": 1.5}, "prob must be a number in [0, 1], got 1.5", id="prob-1.5"),
        pytest.param({"prob": -0.1}, "prob must be a number in [0, 1], got -0.1", id="prob-negative"),
        pytest.param({"prob": float("nan")}, "prob must be a number in [0, 1], got nan", id="prob-nan"),
        pytest.param({"prob": "0.5"}, "prob must be a number in [0, 1], got '0.5'", id="prob-text"),
        pytest.param({"backend": "torhc"}, "backend must be one of auto, torch, cupy, got 'torhc'; did you mean 'torch'?", id="backend"),
        pytest.param({"graph": 1}, "graph must be True or False, got 1", id="graph-1"),
        pytest.param(
            {"graph": True, "backend": "torch"},
            "graph must be False for backend 'torch', got True; graphs are of kernels: backend='cupy'",
            id="graph-of-torch",
        ),
        pytest.param({"scope": "patches"}, "scope must be one of patch, volume, got 'patches'; did you mean 'patch'?", id="scope"),
        pytest.param({"seed": 2**63}, "seed must be an integer of 64 bits, got 9223372036854775808", id="seed-65-bits"),
        pytest.param({"seed": 1.5}, "seed must be an integer of 64 bits, got 1.5", id="seed-1.5"),
        pytest.param({"organ_label": 2}, "tumor_label must differ from organ_label, got 2 for both; 1 and 2 are usual", id="one-label"),
        pytest.param({"tumor_label": 1.5}, "tumor_label must be an integer, got 1.5", id="label-1.5"),
        pytest.param({"contrast_huu": (1, 2)}, "got 'contrast_huu'; did you mean 'contrast_hu'?", id="misspelt-figure"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        TumorSynthesizer(**{"preset": "liver-hu2022", **arguments})


def test_a_seed_of_numpys_is_a_seed():
    drawn = TumorSynthesizer(seed=np.int64(3))
    assert type(drawn.seed) is int
    assert drawn.get_extra_state() == TumorSynthesizer(seed=3).get_extra_state()


IMAGE, LABEL = scans(2, (9, 8, 7))
BAD_CALLS = {
    "numpy-image": ({"image": IMAGE.numpy()}, TypeError, "image must be a torch.Tensor, got ndarray; torch.as_tensor() makes"),
    "numpy-label": ({"label": LABEL.numpy()}, TypeError, "label must be a torch.Tensor, got ndarray; torch.as_tensor() makes one"),
    "no-image": ({"image": None}, TypeError, "image must be a torch.Tensor, got NoneType"),
    "4-d-image": (
        {"image": IMAGE[0]},
        ValueError,
        "image must be (b, 1, i, j, k) with no empty axis, got (1, 9, 8, 7); add the batch axis: x[None]",
    ),
    "4-d-label": ({"label": LABEL[:, 0]}, ValueError, "label must be (b, 1, i, j, k) with no empty axis, got (2, 9, 8, 7); add"),
    "3-d-image": (
        {"image": IMAGE[:, 0, 0]},
        ValueError,
        "image must be (b, 1, i, j, k) with no empty axis, got (2, 8, 7); add batch and channel: x[None, None]",
    ),
    "3-channels": ({"image": IMAGE.expand(2, 3, 9, 8, 7)}, ValueError, "image must be (b, 1, i, j, k) with no empty axis, got (2, 3, 9"),
    "empty-batch": ({"image": IMAGE[:0], "label": LABEL[:0]}, ValueError, "with no empty axis, got (0, 1, 9, 8, 7)"),
    "empty-axis": ({"image": IMAGE[..., :0]}, ValueError, "with no empty axis, got (2, 1, 9, 8, 0)"),
    "integer-image": ({"image": IMAGE.short()}, TypeError, "image must be floating HU, got torch.int16; convert it: image.float()"),
    "float-label": ({"label": LABEL.float()}, TypeError, "label must be an integer tensor, got torch.float32; convert it: label.to("),
    "bool-label": ({"label": LABEL.bool()}, TypeError, "label must be an integer tensor, got torch.bool; convert it: label.to("),
    "shapes-differ": ({"label": LABEL[:, :, 1:]}, ValueError, "label must have the image's shape (2, 1, 9, 8, 7), got (2, 1, 8, 8, 7)"),
    "batches-differ": ({"label": LABEL[:1]}, ValueError, "label must have the image's shape (2, 1, 9, 8, 7), got (1, 1, 9, 8, 7)"),
    "devices-differ": ({"label": LABEL.to("meta")}, ValueError, "label must be on the image's device cpu, got meta"),
    "no-room": ({"tumor_label": 300}, ValueError, "tumor_label must be a value that label can hold, got 300"),
    "organ-wraps": ({"organ_label": 257}, ValueError, "organ_label must be a value that label can hold, got 257 for torch.uint8; conv"),
    "negative-organ": ({"organ_label": -1}, ValueError, "organ_label must be a value that label can hold, got -1 for torch.uint8; conv"),
    "no-spacing": ({"spacing_mm": None}, ValueError, "spacing_mm must be given, got None; three millimetres in the tensor's axis order"),
    "zero": ({"spacing_mm": (1, 0, 1)}, ValueError, "spacing_mm must be finite and above 0 mm, got (1, 0, 1); a NIfTI header has it"),
    "negative": ({"spacing_mm": (1, 1, -2)}, ValueError, "spacing_mm must be finite and above 0 mm, got (1, 1, -2)"),
    "nan": ({"spacing_mm": (1, float("nan"), 1)}, ValueError, "spacing_mm must be finite and above 0 mm, got (1, nan, 1)"),
    "inf": ({"spacing_mm": (1, 1, float("inf"))}, ValueError, "spacing_mm must be finite and above 0 mm, got (1, 1, inf)"),
    "one-missing": ({"spacing_mm": (1, 1, None)}, ValueError, "spacing_mm must be finite and above 0 mm, got (1, 1, None)"),
    "two": ({"spacing_mm": (1, 1)}, ValueError, "spacing_mm must be three numbers, or three for each of 2 samples, got (1, 1)"),
    "one": ({"spacing_mm": 1.0}, ValueError, "spacing_mm must be three numbers, or three for each of 2 samples, got 1.0"),
    "text": ({"spacing_mm": (1, 1, "a")}, ValueError, "spacing_mm must be three numbers, or three for each of 2 samples, got (1, 1"),
    "too-many": ({"spacing_mm": [(1, 1, 1)] * 3}, ValueError, "spacing_mm must be three numbers, or three for each of 2 samples, got"),
    "collated": (
        {"spacing_mm": [torch.ones(2)] * 3},
        ValueError,
        "spacing_mm must hold numbers, got a list of tensors; where a DataLoader",
    ),
    "device": ({"spacing_mm": torch.ones(3, device="meta")}, TypeError, "spacing_mm must be host numbers, got a tensor on meta; keep it"),
    "uid-list": ({"uid": [1, 2]}, TypeError, "uid must be an int64 tensor of shape (2,), got list; torch.tensor([...]) makes one"),
    "uid-float": ({"uid": torch.ones(2)}, TypeError, "uid must be an int64 tensor of shape (2,), got torch.float32"),
    "uid-one": ({"uid": torch.tensor(3)}, ValueError, "uid must have shape (2,), one a sample, got ()"),
    "uid-three": ({"uid": uids(3)}, ValueError, "uid must have shape (2,), one a sample, got (3,)"),
}


@pytest.mark.parametrize("mode", ["train", "eval", "plan"])
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_call_refuses(arguments, error, message, mode):
    arguments = dict(arguments)
    numbers = {name: arguments.pop(name) for name in ("organ_label", "tumor_label") if name in arguments}
    synth = TumorSynthesizer("liver-hu2022", **numbers).train(mode == "train")
    call = synth.plan if mode == "plan" else synth
    with pytest.raises(error, match=re.escape(message)):
        call(**{"image": IMAGE, "label": LABEL, "spacing_mm": ONE_MM, **arguments})
    assert (synth.lesions, synth.skipped, synth.get_extra_state()["counter"]) == (0, 0, 0)  # nothing was used up


def test_evaluation_mode_uses_no_ordinals_up():
    synth = TumorSynthesizer().eval()
    with pytest.raises(ValueError, match=re.escape("uid must be given in evaluation mode, got None; name the samples, such as torch.ara")):
        synth.plan(IMAGE, LABEL, ONE_MM)
    assert synth.plan(IMAGE, LABEL, ONE_MM, uids(2)).uid.tolist() == [1000, 1001]
    assert synth.train().plan(IMAGE, LABEL, ONE_MM).uid.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"plan": None}, TypeError, "plan must be what TumorSynthesizer.plan made, got NoneType", id="none"),
        pytest.param(
            {"image": IMAGE[:1], "label": LABEL[:1]}, ValueError, "plan must hold 1 samples, as image does, got 2; take some", id="batch"
        ),
        pytest.param({"image": IMAGE[..., 1:], "label": LABEL[..., 1:]}, ValueError, "a plan of a crop needs scope='volume'", id="shape"),
        pytest.param(
            {"origin_vox": (0, 0, 0)}, ValueError, "origin_vox must be None for a plan of scope 'patch', got (0, 0, 0)", id="origin"
        ),
        pytest.param({"image": IMAGE.numpy()}, TypeError, "image must be a torch.Tensor, got ndarray", id="numpy"),
    ],
)
def test_render_refuses(change, error, message):
    synth = TumorSynthesizer()
    plan = synth.plan(IMAGE, LABEL, ONE_MM, uids(2))
    with pytest.raises(error, match=re.escape(message)):
        synth.render(**{"image": IMAGE, "label": LABEL, "plan": plan, **change})


@pytest.mark.parametrize(
    ("origin_vox", "message"),
    [
        (None, "image must have the shape (9, 8, 7) that the plan was made for, got (4, 8, 7); name the crop's place with origin_vox"),
        ((1, 2), "origin_vox must be three host integers, got (1, 2)"),
        ((1, 2, 0.5), "origin_vox must be three host integers, got (1, 2, 0.5)"),
        (torch.tensor([0, 0, 0]), "origin_vox must be three host integers, got tensor([0, 0, 0])"),
        (5, "origin_vox must be three host integers, got 5"),
        ((0, 0, float("nan")), "origin_vox must be three host integers, got (0, 0, nan)"),
        ((0, float("inf"), 0), "origin_vox must be three host integers, got (0, inf, 0)"),
        ("123", "origin_vox must be three host integers, got 123"),
        ((0, None, 0), "origin_vox must be three host integers, got (0, None, 0)"),
    ],
    ids=["missing", "two", "half", "tensor", "one", "nan", "infinite", "text", "none"],
)
def test_render_of_a_crop_refuses(origin_vox, message):
    synth = TumorSynthesizer("liver-hu2022", scope="volume")
    plan = synth.plan(IMAGE, LABEL, ONE_MM, uids(2))
    with pytest.raises(ValueError, match=re.escape(message)):
        synth.render(IMAGE[:, :, :4], LABEL[:, :, :4], plan, origin_vox)

"""TumorSynthesizer as its user meets it: what it passes through, what it bears, what it remembers. What it refuses: test_bad_input.py."""

import copy

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scans import MIX, ONE_MM, SHAPE, TINY, organ, same, scans, uids
from scipy.ndimage import gaussian_filter

from gpu_synth import TumorPlan, TumorSynthesizer

# ---- passed through, and counted --------------------------------------------------------------------------------------------------------


def made(image, label, spacing_mm=ONE_MM, first=1000, **options):
    """Image and label as they come back, lesions and skipped samples."""
    synth = TumorSynthesizer("liver-hu2022", **{"prob": 1.0, "seed": 1, "class_prob": TINY, **options})
    return *synth(image, label, spacing_mm, uids(len(image), first)), synth.lesions, synth.skipped


def nothing(label):
    label[:] = 0


def three_voxels(label):
    label[:] = 0
    label[..., 20, 18, 12:15] = 1


def thin(label):
    label[:] = 0
    label[..., 10:14, 5:30, 5:20] = 1


def tumour_there(label):
    label[..., 20, 18, 13] = 2


@pytest.mark.parametrize("spoil", [nothing, three_voxels, thin, tumour_there])
def test_a_sample_that_can_hold_no_lesion_passes_through_and_is_counted(spoil):
    image, label = scans(3)
    spoil(label[1])
    image[1, 0, :2] = torch.nan
    new_image, new_label, lesions, skipped = made(image, label)
    assert same(new_image[1], image[1])
    assert same(new_label[1], label[1])
    assert skipped == 1
    assert lesions >= 6
    assert all((new_label[n] == 2).any() for n in (0, 2))


def test_what_was_not_to_be_altered_is_no_skip():
    image, label = scans(2)
    label[1] = 0
    new_image, new_label, lesions, skipped = made(image, label, prob=0.0)
    assert same(new_image, image)
    assert same(new_label, label)
    assert (lesions, skipped) == (0, 0)


# ---- works ------------------------------------------------------------------------------------------------------------------------------


def check_sane(image, label, new_image, new_label, organ_label=1, tumor_label=2):
    """What holds of every result: tumours in the organ alone, darker there, everything else as it was."""
    assert (new_image.dtype, new_label.dtype, new_image.shape) == (image.dtype, label.dtype, image.shape)
    tumour = new_label == tumor_label
    assert tumour.any()
    assert (label[tumour] == organ_label).all()
    assert torch.equal(new_label[~tumour], label[~tumour])
    assert same(new_image[label != organ_label], image[label != organ_label])
    drop = (image.double() - new_image.double())[tumour & image.isfinite()]
    assert 5 < drop.mean() < 120
    assert drop.max() <= 145 * 1.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_image_types(dtype):
    image, label = scans(2, dtype=dtype)
    new_image, new_label, *_ = made(image, label)
    check_sane(image, label, new_image, new_label)
    if dtype == torch.float64:
        torch.testing.assert_close(new_image, made(image.float(), label)[0].double(), rtol=0, atol=1e-4)
    else:  # computed in float32, rounded once
        assert same(new_image, made(image.float(), label)[0].to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16], ids=str)
def test_label_types_and_other_numbers(dtype):
    image, label = scans(2)
    expected = made(image, label)
    other = torch.where(label == 1, 6, 3).to(dtype)  # organ 6 among organs 3
    new_image, new_label, *_ = made(image, other, organ_label=6, tumor_label=7)
    check_sane(image, other, new_image, new_label, organ_label=6, tumor_label=7)
    assert same(new_image, expected[0])


LAYOUTS = {
    "channels-last": lambda x: x.to(memory_format=torch.channels_last_3d),
    "transposed": lambda x: x.transpose(2, 4).contiguous().transpose(2, 4),
    "window": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1, 2, 2))[..., 2:-2, 3:-1, 1:-2],
    "every-second": lambda x: x.repeat_interleave(2, 4)[..., ::2],
    "requires-grad": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x,
    "MetaTensor": lambda x: MetaTensor(x, affine=torch.diag(torch.tensor([0.7, 0.7, 5.0, 1.0]))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_kinds_of_tensors(layout):
    image, label = scans(2)
    expected = made(image, label)
    given = [LAYOUTS[layout](x) for x in (image, label)]
    before = [x.detach().clone() for x in given]
    got = made(*given)
    assert all(torch.equal(x, y) for x, y in zip(got[:2], expected[:2], strict=True))
    assert not got[0].requires_grad
    assert all(torch.equal(x.detach(), y) for x, y in zip(given, before, strict=True))  # nothing is altered in place


def test_one_sample_of_memory_shared_by_a_batch():
    image, label = (x[:1].expand(3, -1, -1, -1, -1) for x in scans(1))
    new_image, new_label, *_ = made(image, label)
    assert len({tuple((new_label[n] == 2).flatten().nonzero()[:, 0].tolist()) for n in range(3)}) == 3
    check_sane(image, label, new_image, new_label)


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "class_prob"),
    [
        pytest.param((24, 20, 8), ONE_MM, (0, 0, 0, 1, 0), id="smaller-than-a-lesion"),
        pytest.param((3, 3, 3), ONE_MM, MIX, id="three-voxels"),
        pytest.param((1, 40, 33), ONE_MM, TINY, id="flat"),
        pytest.param((40, 33, 1), (0.7, 0.7, 5.0), MIX, id="one-slice"),
        pytest.param((36, 32, 12), (0.7, 0.7, 5.0), (0, 0, 1, 0, 0), id="0.7-0.7-5mm"),
        pytest.param((20, 20, 20), (9.0, 9.0, 9.0), MIX, id="9mm"),
        pytest.param((20, 24, 28), (0.3, 0.25, 0.4), TINY, id="0.3mm"),
    ],
)
def test_an_organ_that_fills_the_patch(shape, spacing_mm, class_prob):
    image = torch.randn(4, 1, *shape, generator=torch.Generator().manual_seed(0)) * 10 + 100
    label = torch.ones(4, 1, *shape, dtype=torch.uint8)
    new_image, new_label, lesions, skipped = made(image, label, spacing_mm, class_prob=class_prob)
    check_sane(image, label, new_image, new_label)
    assert lesions >= 4
    assert skipped == 0


def test_the_change_is_texture_times_blurred_mask_times_contrast():
    """With texture, organ and contrast at one, what is left is scipy's blur of the mask, in millimetres on an uneven grid."""
    image, label = torch.zeros(1, 1, 34, 31, 12, dtype=torch.float64), torch.ones(1, 1, 34, 31, 12, dtype=torch.uint8)
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, class_prob=TINY)
    plan = synth.plan(image, label, (0.8, 1.0, 3.0), uids(1))
    full = {"texture_gain": plan.texture_gain * 1e6, "contrast_hu": plan.contrast_hu * 0 - 100}  # the gain's excess is clipped
    out = synth.render(image, label, plan.edit(**full))
    sigma_vox = [plan.edge_sigma_mm.item() / spacing for spacing in (0.8, 1.0, 3.0)]
    blurred = gaussian_filter((out.instances[0, 0] > 0).double().numpy(), sigma_vox, mode="reflect", truncate=4.0)
    np.testing.assert_allclose(out.image[0, 0].numpy(), -100 * blurred, rtol=0, atol=1e-3)


def test_an_organ_cut_by_the_border_has_lesions_cut_there():
    image, label = scans(16)
    assert label[:, :, 0].any()
    _, new_label, *_ = made(image, label, class_prob=(0, 1, 0, 0, 0))
    assert (new_label[:, :, 0] == 2).any()


def test_a_batch_of_32():
    image, label = scans(32, (20, 18, 16))
    new_image, new_label, _, skipped = made(image, label)
    assert ((new_label == 2).flatten(1).any(1)).all()
    assert skipped == 0
    check_sane(image, label, new_image, new_label)


def test_voxels_that_are_not_finite_stay_and_do_not_spread():
    image, label = scans(2)
    expected = made(image, label)
    spots = torch.rand(image.shape, generator=torch.Generator().manual_seed(3))
    for low, value in ((0.0, torch.nan), (0.1, torch.inf), (0.2, -torch.inf)):
        image[(spots >= low) & (spots < low + 0.1)] = value
    new_image, new_label, *_ = made(image, label)
    finite = image.isfinite()
    assert same(new_label, expected[1])
    assert same(new_image[finite], expected[0][finite])
    assert torch.equal(new_image[~finite].nan_to_num(), image[~finite].nan_to_num())


def test_axial_axis_may_be_another():
    """The same anatomy, its axes in another order: lesions stay in the middle of the axis named."""
    image, label = scans(8)
    for axis in range(3):
        plan = TumorSynthesizer("liver-hu2022", prob=1.0, class_prob=TINY, axial_axis=axis).plan(image, label, ONE_MM, uids(8))
        extent = organ().movedim(axis, 0).flatten(1).any(1).nonzero()[[0, -1], 0].tolist()
        at = plan.centre_vox[plan.active][:, axis].double()
        assert at.min() >= extent[0] + 0.3 * (extent[1] - extent[0]) - 0.5
        assert at.max() <= extent[0] + 0.7 * (extent[1] - extent[0]) + 0.5


# ---- what it remembers ------------------------------------------------------------------------------------------------------------------


def test_evaluation_without_uid_returns_what_it_was_given():
    image, label = scans(2)
    synth = TumorSynthesizer("liver-hu2022", prob=1.0).eval()
    new_image, new_label = synth(image, label, ONE_MM)
    assert new_image is image
    assert new_label is label
    assert synth.get_extra_state()["counter"] == 0
    assert not torch.equal(synth(image, label, ONE_MM, uids(2))[0], image)
    assert synth.get_extra_state()["counter"] == 0  # uids given are not counted


def test_training_counts_its_own_uids():
    image, label = scans(3)
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, class_prob=TINY)
    assert synth.plan(image, label, ONE_MM).uid.tolist() == [0, 1, 2]
    assert synth.plan(image[:1], label[:1], ONE_MM).uid.tolist() == [3]
    synth(image, label, ONE_MM)
    assert synth.plan(image, label, ONE_MM).uid.tolist() == [7, 8, 9]


def test_ranks_share_the_ordinals(monkeypatch):
    image, label = scans(3)
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 4)):
        monkeypatch.setattr(f"gpu_synth.counting.{name}", lambda value=value: value)
    synth = TumorSynthesizer()
    assert synth.plan(image, label, ONE_MM).uid.tolist() == [3, 4, 5]
    assert synth.plan(image, label, ONE_MM).uid.tolist() == [15, 16, 17]


def test_workers_do_not_count(monkeypatch):
    monkeypatch.setattr("gpu_synth.counting.get_worker_info", object)  # anything but None: a DataLoader worker
    with pytest.raises(ValueError, match="uid must be given inside a DataLoader worker, got None; each worker would"):
        TumorSynthesizer()(*scans(1), ONE_MM)


def test_counters_add_up():
    image, label = scans(4)
    label[2] = 0
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, class_prob=TINY)
    lesions = 0
    for turn in range(3):
        lesions += int(synth.plan(image, label, ONE_MM, uids(4, 10 * turn)).active.sum())
        synth(image, label, ONE_MM, uids(4, 10 * turn))
    assert (synth.lesions, synth.skipped) == (lesions, 3)


def test_state_is_a_snapshot_and_no_buffer():
    synth = TumorSynthesizer("liver-hu2022", seed=7)
    image, label = scans(2)
    state = synth.state_dict()
    synth(image, label, ONE_MM)
    assert state["_extra_state"]["counter"] == 0
    assert synth.state_dict()["_extra_state"]["counter"] == 2
    assert not list(synth.buffers())  # DDP would broadcast one
    assert not list(synth.parameters())
    twin = copy.deepcopy(synth)
    assert torch.equal(twin.plan(image, label, ONE_MM).uid, torch.tensor([2, 3]))
    assert synth.get_extra_state()["counter"] == 2


def test_resuming_with_another_preset_is_said():
    state = TumorSynthesizer("liver-hu2022", seed=7).state_dict()
    other = TumorSynthesizer("liver-hu2022", seed=8, contrast_hu=(-60.0, -50.0))
    with pytest.warns(
        UserWarning, match="the saved synthesizer drew from preset 'liver-hu2022' .* give both the same preset and overrides"
    ):
        other.load_state_dict(state)
    assert other.seed == 7
    assert other.preset.contrast_hu == (-60.0, -50.0)


# ---- the tests' own ground --------------------------------------------------------------------------------------------------------------


def test_uninitialised_memory_is_poisoned():
    assert torch.empty(7).isnan().all()
    assert torch.empty_like(torch.ones(7, dtype=torch.float64)).isnan().all()
    assert (torch.empty(7, dtype=torch.int64) == 2**63 - 1).all()


def test_scans_are_what_they_say():
    image, label = scans(2)
    assert image.shape[2:] == label.shape[2:] == SHAPE
    assert organ()[0].any()  # cut by one border
    assert not organ()[-1].any()
    assert isinstance(TumorSynthesizer("liver-hu2022").plan(image, label, np.array(ONE_MM), uids(2)), TumorPlan)

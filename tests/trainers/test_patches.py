"""Which patch a uid is: a function of seed and uid, of voxels that are each as likely as the others, on any grid."""

import math
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from tiny_training import PATCH_VOX, data_of

from gpu_synth.manifest import Manifest, load_case
from gpu_synth.prepare.run import prepare
from gpu_synth.trainers.patches import PatchDataset, PatchLocator, PatchPolicy
from gpu_synth.volumes import save_nifti

ORGAN, BORDER, BACKGROUND = PatchPolicy(1, 0, 0), PatchPolicy(0, 1, 0), PatchPolicy(0, 0, 1)
WHOLE = 1 << 64


@pytest.fixture(scope="module")
def training(cache):
    data = data_of(cache)
    data.setup("fit")
    return data.manifest, data.training


def locator_of(training, policy=PatchPolicy(), patch_vox=PATCH_VOX, seed=0) -> PatchLocator:  # noqa: B008 (frozen)
    return PatchLocator(*training, patch_vox, seed, policy)


def prepared(folder, label: np.ndarray, spacing_mm=(1.0, 1.0, 1.0)) -> Manifest:
    """One scan with this organ."""
    hu = np.where(label > 0, 100, -50).astype(np.int16)
    hu[0] = -1000
    for kind, data in (("ct", hu), ("liver", label.astype(np.uint8))):
        (folder / kind).mkdir()
        save_nifti(folder / kind / "a.nii.gz", data, np.diag([*spacing_mm, 1.0]))
    return prepare(images=folder / "ct", labels=folder / "liver", out=folder / "cache", spacing_mm=spacing_mm, tumor_labels=(2,))


def test_a_place_is_a_function_of_seed_and_uid(training):
    first, again, other = locator_of(training), locator_of(training), locator_of(training, seed=1)
    uids = [0, 1, 255, 256, 1000, 2**40, 2**62 + 3]
    places = [first.locate(uid) for uid in uids]
    assert [again.locate(uid) for uid in reversed(uids)] == places[::-1], "in any order"
    assert sum(other.locate(uid) == place for uid, place in zip(uids, places, strict=True)) <= 1
    assert len(set(places)) == len(uids)


def test_a_patch_is_the_box_at_its_place(training):
    dataset, manifest = PatchDataset(locator_of(training)), training[0]
    for uid in range(20):
        patch = dataset[uid]
        case, start = training[1][patch["case"]], patch["start_vox"]
        image, label, spacing_mm = load_case(manifest, case)
        box = (0, *(slice(s, s + n) for s, n in zip(start, PATCH_VOX, strict=True)))
        assert torch.equal(patch["image"][0], image[box])
        assert torch.equal(patch["label"][0], label[box])
        assert patch["image"].dtype == torch.int16
        assert (patch["spacing_mm"], patch["uid"].item()) == (spacing_mm, uid)


@pytest.mark.parametrize("case", ["cut", "slices", "pieces"])
def test_every_voxel_of_organ_and_surface_is_chosen_by_as_many_ranks(tmp_path, case):
    """All of them, once each: the choice is uniform because the rank is."""
    i, j, k = np.ogrid[:23, :19, :17]
    label = {
        "cut": ((i - 20) / 9) ** 2 + ((j - 3) / 8) ** 2 + ((k - 8) / 5) ** 2 < 1,
        "slices": ((i - 11) / 9) ** 2 + ((j - 9) / 7) ** 2 + ((k - 2) / 3.5) ** 2 < 1,
        "pieces": (abs(i - 5) < 3) & (abs(j - 9) < 4) & (k != 8) | (i == 18) & (j == 14) & (k == 3),
    }[case]
    label = label.astype(np.uint8) + (label & (k == 5) & (i == 18))  # some of it tumour, which is part of the organ
    manifest = prepared(tmp_path, label, (0.7, 0.9, 5.0) if case == "slices" else (1.0, 1.0, 1.0))
    locator = PatchLocator(manifest, manifest.cases, (8, 8, 8), 0, PatchPolicy())
    organ = load_case(manifest, 0)[1][0].numpy() > 0
    surface = organ & binary_dilation(~organ, np.ones((3, 3, 3)))  # beyond the scan, nothing dilates
    assert 0 < surface.sum() < organ.sum()
    for border, mask in ((False, organ), (True, surface)):
        n = int(mask.sum())
        ranks = [-(-WHOLE * nth // n) for nth in range(n)]  # the least of each voxel's
        chosen = [locator.centre_vox(0, border, rank) for rank in ranks]
        assert sorted(chosen) == sorted(map(tuple, np.argwhere(mask).tolist()))
        assert [locator.centre_vox(0, border, rank - 1) for rank in ranks[1:]] == chosen[:-1], "as many ranks each"


def test_shares_are_those_of_the_policy(training, told):
    """Aims are told apart by what other policies make of the same uid: within 4.5 standard deviations of a binomial share."""
    n, policy = 3000, PatchPolicy(organ=2, border=1, background=5)
    locators = [locator_of(training, only) for only in (ORGAN, BORDER, BACKGROUND)]
    of_policy, aims, cases = locator_of(training, policy), Counter(), Counter()
    for uid in range(n):
        place = of_policy.locate(uid)
        aims[[locator.locate(uid) for locator in locators].index(place)] += 1
        cases[place.case] += 1
    expected = [(f"aim {which}", aims[which] / n, share / 8) for which, share in enumerate(policy.shares)]
    expected += [(f"case {number}", cases[number] / n, 1 / len(training[1])) for number in range(len(training[1]))]
    for what, found, share in expected:
        bound = 4.5 * math.sqrt(share * (1 - share) / n)
        told(f"patches: share of {what}", n, found, f"{share:.3f} ± {bound:.3f}")
        assert abs(found - share) < bound


@pytest.mark.parametrize("policy", [ORGAN, BORDER], ids=["organ", "border"])
def test_aimed_patches_are_centred_on_the_voxel_or_moved_inside(training, policy):
    locator, (manifest, cases) = locator_of(training, policy), training
    centred = 0
    for uid in range(200):
        place = locator.locate(uid)
        case = cases[place.case]
        assert place.aimed
        assert all(0 <= s <= n - size for s, n, size in zip(place.start_vox, case.shape, PATCH_VOX, strict=True))
        label = load_case(manifest, case)[1][0].numpy()
        at = tuple(s + size // 2 for s, size in zip(place.start_vox, PATCH_VOX, strict=True))
        near = label[tuple(slice(max(0, a - 1), a + 2) for a in at)]
        on_it = near[1, 1, 1] == 1 if near.shape == (3, 3, 3) else False
        centred += on_it and (policy is ORGAN or bool((near == 0).any()))
        assert PatchDataset(locator)[uid]["label"].any()
    assert centred > 100, "the others' centre lies near the scan's border"


def test_background_patches_lie_anywhere(training):
    locator, (_, cases) = locator_of(training, BACKGROUND), training
    places = [locator.locate(uid) for uid in range(300)]
    assert not any(place.aimed for place in places)
    for axis, size in enumerate(PATCH_VOX):
        starts = [place.start_vox[axis] for place in places]
        last = cases[0].shape[axis] - size
        assert min(starts) <= 0.05 * last
        assert max(starts) >= 0.95 * last
    small = PatchDataset(locator_of(training, BACKGROUND, (6, 6, 6)))
    assert 10 < sum(bool(small[uid]["label"].any()) for uid in range(100)) < 90


@pytest.mark.parametrize("policy", [ORGAN, BORDER, BACKGROUND], ids=["organ", "border", "background"])
def test_a_patch_larger_than_the_scan_holds_all_of_it(training, policy):
    patch_vox = (96, 24, 64)  # along i and k
    for uid in range(12):
        patch = PatchDataset(locator_of(training, policy, patch_vox))[uid]
        image, label, _ = load_case(training[0], training[1][patch["case"]])
        i, j, k = patch["start_vox"]
        assert -24 <= i <= 0
        assert -20 <= k <= 0
        assert torch.equal(patch["image"][0, -i : 72 - i, :, -k : 44 - k], image[0, :, j : j + 24])
        assert patch["label"].sum() == label[0, :, j : j + 24].sum()
        assert (patch["image"] == -1024).sum() >= patch["image"].numel() - 72 * 24 * 44


@pytest.mark.parametrize("box", [((0, 0, 0), (0, 0, 0)), ((60, 0, 0), (72, 9, 9))], ids=["no-box", "nothing-in-it"])
def test_a_case_without_organ_gives_background(training, box):
    manifest, cases = training
    empty = [replace(case, organ_bbox_vox=box) for case in cases]
    assert not any(load_case(manifest, case)[1][0, 60:, :9, :9].any() for case in cases)
    locator = locator_of((manifest, empty), ORGAN)
    assert [locator.locate(uid) for uid in range(20)] == [locator_of(training, BACKGROUND).locate(uid) for uid in range(20)]


def test_an_organ_without_surface_is_taken_as_a_whole(tmp_path):
    manifest = prepared(tmp_path, np.ones((20, 18, 16)))
    (organ, border) = (PatchLocator(manifest, manifest.cases, (8, 8, 8), 0, policy) for policy in (ORGAN, BORDER))
    assert [border.locate(uid) for uid in range(20)] == [organ.locate(uid) for uid in range(20)]


def test_workers_are_sent_no_volume(training):
    dataset = PatchDataset(locator_of(training))
    before = [dataset[uid]["image"] for uid in range(8)]
    sent = pickle.dumps(dataset)
    assert len(sent) < 20_000
    assert all(torch.equal(pickle.loads(sent)[uid]["image"], image) for uid, image in enumerate(before))


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"organ": -0.1}, "organ of a patch policy must be a finite share of 0 or more, got -0.1"),
        ({"border": math.nan}, "border of a patch policy must be a finite share"),
        ({"background": "half"}, "background of a patch policy must be a finite share of 0 or more, got 'half'"),
        ({"organ": 0, "border": 0, "background": 0}, "must have a share above 0, got none"),
    ],
    ids=["negative", "nan", "text", "none"],
)
def test_a_policy_that_is_none_is_refused(shares, says):
    with pytest.raises(ValueError, match=says):
        PatchPolicy(**shares)

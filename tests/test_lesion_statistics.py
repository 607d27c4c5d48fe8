"""What preset "liver" promises, counted: each figure with its sample size and bound, and a table of them at the end of the run."""

import math

import numpy as np
import pytest
import torch
from ct_files import real_ct
from scipy import ndimage

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.conform import prepare_ct, prepare_label
from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels.tissue import tissue
from gpu_synth.kernels.warp import lesion_table
from gpu_synth.sources import Source

SPACING_MM, ONE_MM = (1.5, 1.5, 1.5), (1.0, 1.0, 1.0)
CASES = ("ccth_a01", "totalseg_example", "chaos_ctset3")


def case(name):
    """A real CT and its liver at 1.5 mm, 20 mm around the liver."""
    source = Source(name, real_ct() / f"{name}_ct.nii.gz", real_ct() / f"{name}_liver.nii.gz")
    scan, _ = prepare_ct(source.image, SPACING_MM)
    mask, _ = prepare_label(source, scan, (1,), ())
    box = tuple(slice(max(0, ends.start - 13), ends.stop + 13) for ends in ndimage.find_objects((mask.data > 0).astype(np.uint8))[0])
    return (torch.from_numpy(np.ascontiguousarray(x[box]))[None, None] for x in (scan.data.astype(np.float32), mask.data))


def bands(cube):
    """Power of a cube in ¼–½, ½–¾ and ¾–1 of Nyquist."""
    window = np.hanning(cube.shape[0] + 2)[1:-1]
    power = np.abs(np.fft.fftn((cube - cube.mean()) * window[:, None, None] * window[:, None] * window)) ** 2
    frequency = 2 * np.abs(np.fft.fftfreq(cube.shape[0]))
    radius = np.sqrt(frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + frequency**2)
    return np.array([power[(radius >= low) & (radius < low + 0.25)].sum() for low in (0.25, 0.5, 0.75)])


def alone(radius_mm, b, n, **overrides):
    """`b` samples that are all organ, each with a lesion in its middle and nothing that moves it."""
    image, label = torch.full((b, 1, n, n, n), 100.0), torch.ones(b, 1, n, n, n, dtype=torch.uint8)
    synth = TumorSynthesizer("liver", prob=1.0, mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), cirrhosis_prob=0.0, **overrides)
    plan = synth.plan(image, label, ONE_MM, torch.arange(b), lesions=[{"radius_mm": radius_mm, "centre_vox": (n / 2,) * 3}])
    return synth.render(image, label, plan)


@pytest.mark.parametrize(("radius_mm", "b"), [(3.0, 60), (5.0, 60), (10.0, 60), (20.0, 12)])
def test_a_lesion_has_the_volume_asked_for(radius_mm, b, told):
    """Each within 15 %, where it has 100 voxels at least and nothing cuts it; their mean within 3 %."""
    out = alone(radius_mm, b, int(3.4 * radius_mm) + 8)
    ratio = (out.label == 2).flatten(1).sum(1).double() / (4 / 3 * math.pi * radius_mm**3)
    told(f"volume, realised over requested, radius {radius_mm:g} mm: the lowest", b, ratio.min().item(), "≥ 0.85")
    told(f"volume, realised over requested, radius {radius_mm:g} mm: the highest", b, ratio.max().item(), "≤ 1.15")
    assert (ratio - 1).abs().max() < 0.15
    assert abs(ratio.mean().item() - 1) < 0.03


@pytest.mark.parametrize("spiculation", [0.2, 0.5])
def test_spikes_do_not_change_the_volume(spiculation, told):
    """30 lesions of 10 mm with spikes of so many radii: each within 15 %."""
    out = alone(10.0, 30, 80, spiculation=(spiculation, spiculation))
    ratio = (out.label == 2).flatten(1).sum(1).double() / (4 / 3 * math.pi * 1000)
    told(
        f"volume, realised over requested, spikes of {spiculation:g} radii: the farthest off", 30, (ratio - 1).abs().max().item(), "≤ 0.15"
    )
    assert (ratio - 1).abs().max() < 0.15


@pytest.mark.parametrize(("radius_mm", "least"), [(3.0, 0.7), (8.0, 0.85)])
def test_small_lesions_do_not_fade(radius_mm, least, told):
    """Mean occupancy inside the label, 1 mm grid: of each lesion, of 60 with every kind's edge."""
    out = alone(radius_mm, 60, int(3.4 * radius_mm) + 8)
    inside = (out.label == 2).double()
    share = (out.occupancy * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)
    told(f"occupancy inside the label, radius {radius_mm:g} mm: the lowest", 60, share.min().item(), f"≥ {least:g}")
    assert share.min() >= least


def test_noise_inside_lesions_has_the_scans_spectrum(told):
    """104 lesions of 12 mm in correlated noise of 12 HU, with mass effect: power in three bands within 15 % of before.

    What the same plan makes of a scan without noise is the lesion's own structure, and is taken off.
    """
    noise = torch.randn(104, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0)).numpy()
    noise = ndimage.gaussian_filter(noise, (0, 0, 0.6, 0.6, 0.6))
    image = torch.from_numpy(100 + 12 * noise / noise.std()).float()
    label = torch.ones_like(image, dtype=torch.uint8)
    synth = TumorSynthesizer("liver", prob=1.0, cirrhosis_prob=0.0)
    plan = synth.plan(image, label, (1.0, 1.0, 1.0), torch.arange(104), lesions=[{"radius_mm": 12.0, "centre_vox": (20, 20, 20)}])
    out, structure = (synth.render(x, label, plan) for x in (image, torch.full_like(image, 100.0)))
    cube = (slice(None), 0, *(slice(14, 26),) * 3)
    assert (out.label[cube] == 2).double().mean() > 0.99
    before, after = (sum(bands(x) for x in y[cube].double().numpy()) for y in (image, out.image - structure.image))
    for band, ratio in zip(("¼–½", "½–¾", "¾–1"), after / before, strict=True):
        told(f"noise power inside lesions over before, {band} of Nyquist", 104, ratio, "0.85 to 1.15")
    assert np.abs(after / before - 1).max() < 0.15, after / before


@pytest.mark.real_ct
@pytest.mark.parametrize("name", CASES)
def test_contrast_to_noise_floor_holds_in_every_ct(name, told):
    """Some 36 lesions a CT of every kind, 2 to 20 mm, floor of 2: the mean change over each lesion's label, over the scan's noise."""
    image, label = case(name)
    sizes = {"count": (12, 12), "size_prob": (0.4, 0.3, 0.3, 0.0), "cluster_prob": 0.0, "cirrhosis_prob": 0.0}
    synth = TumorSynthesizer("liver", prob=1.0, scope="volume", cnr_floor=2.0, mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), **sizes)
    ratios = []
    for uid in range(3):
        out = synth.render(image, label, synth.plan(image, label, SPACING_MM, torch.tensor([uid])))
        ratios += [record["contrast_to_noise"] for record in out.records() if record["volume_mm3"] >= 10 * math.prod(SPACING_MM)]
    told(f"contrast to noise in {name}, the lowest with a floor of 2", len(ratios), min(ratios), "≥ 2")
    assert len(ratios) >= 25
    assert min(ratios) >= 2.0


def test_contrast_to_noise_floor_holds_for_every_kind_and_size(told):
    """10 lesions of each of seven kinds, of 2, 3, 5 and 9 mm, in an organ of 60 HU with noise of 30: contrasts must rise."""
    kinds, lowest = [kind.name for kind in presets.get("liver").kinds], []
    for radius_mm in (2.0, 3.0, 5.0, 9.0):
        b, n = 10 * len(kinds), 2 * int(2.9 * radius_mm) + 8
        image = 60 + 30 * torch.randn(b, 1, n, n, n, generator=torch.Generator().manual_seed(0))
        label = torch.ones_like(image, dtype=torch.uint8)
        synth = TumorSynthesizer("liver", prob=1.0, mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), cirrhosis_prob=0.0)
        asked = [[{"kind": kinds[at % len(kinds)], "radius_mm": radius_mm, "centre_vox": (n / 2,) * 3}] for at in range(b)]
        plan = synth.plan(image, label, ONE_MM, torch.arange(b), lesions=asked)
        ratios = [record["contrast_to_noise"] for record in synth.render(image, label, plan).records()]
        told(f"contrast to noise of every kind, radius {radius_mm:g} mm: the lowest with a floor of 1", len(ratios), min(ratios), "≥ 1")
        lowest.append(min(ratios))
    assert min(lowest) >= 1.0


@pytest.mark.real_ct
def test_lesions_keep_clear_of_the_vessels_of_a_contrast_ct(told):
    """Some 100 lesions of 3 to 8 mm in the portal-venous CT: those that touch a vessel, before and after avoidance."""
    image, label = case("chaos_ctset3")
    vessel = tissue(image[:, 0], label[:, 0], 1, SPACING_MM).vessel[0].numpy() > 0
    touching, lesions = {}, {}
    sizes = {"count": (12, 12), "size_mm": (3.0, 5.0, 6.0, 7.0, 8.0), "size_prob": (0.25,) * 4, "cluster_prob": 0.0}
    for avoid in (False, True):
        synth = TumorSynthesizer(
            "liver", prob=1.0, scope="volume", avoid_vessels=avoid, mass_effect=(0.0, 0.0), cirrhosis_prob=0.0, **sizes
        )
        numbers = [
            synth.render(image, label, synth.plan(image, label, SPACING_MM, torch.tensor([uid]))).instances[0, 0].numpy()
            for uid in range(9)
        ]
        found = [(n == lesion) for n in numbers for lesion in np.unique(n[n > 0])]
        touching[avoid], lesions[avoid] = np.mean([vessel[mask].any() for mask in found]), len(found)
    for avoid, when in ((False, "before"), (True, "after")):
        told(f"share of lesions that touch a vessel, {when} avoidance", lesions[avoid], touching[avoid], "≤ ¼ of before" if avoid else "")
    assert min(lesions.values()) >= 75
    assert touching[False] > 0.5
    assert touching[True] < 0.25 * touching[False], touching


@pytest.mark.real_ct
def test_vessels_under_lesions_are_gone(told):
    """45 lesions of 10 to 20 mm in the portal-venous CT, voxels all lesion: how much brighter vessels are; ¾ goes, see `test_tissue`."""
    image, label = case("chaos_ctset3")
    sizes = {"count": (3, 3), "size_prob": (0.0, 0.0, 1.0, 0.0), "cirrhosis_prob": 0.0, "satellite_prob": 0.0}
    sizes |= {"mass_effect": (0.0, 0.0), "bulge": (0.0, 0.0), "kinds": ({"name": "plain", "prob": 1.0, "body": (-0.5, -0.5)},)}
    known = tissue(image[:, 0], label[:, 0], 1, SPACING_MM)
    vessel = known.vessel[0] > 0
    beside = (label[0, 0] == 1) & ~torch.from_numpy(ndimage.binary_dilation(vessel.numpy(), iterations=3))
    bright, lesions = {}, 0
    for displace in (False, True):
        synth, differences = TumorSynthesizer("liver", prob=1.0, scope="volume", displace_vessels=displace, **sizes), []
        for uid in range(15):
            plan = synth.plan(image, label, SPACING_MM, torch.tensor([uid]))
            out = synth.render(image, label, plan)
            full = out.occupancy[0, 0] > 0.99
            differences.append(out.image[0, 0][full & vessel].mean() - out.image[0, 0][full & beside].mean())
            lesions += int(plan.active.sum()) * displace
        bright[displace] = torch.stack(differences).nanmean().item()
    for displace, what in ((False, "shine through"), (True, "are displaced")):
        told(f"vessels under lesions, HU above the rest, where they {what}", lesions, bright[displace], "≤ ⅓ of before" if displace else "")
    assert lesions >= 35
    assert bright[False] > 25
    assert abs(bright[True]) < bright[False] / 3


def test_lesions_do_not_merge(told):
    """60 samples, some 250 lesions with satellites and clusters: no voxel of one lesion has a voxel of another for a neighbour."""
    image, label = torch.full((60, 1, 44, 44, 44), 100.0), torch.ones(60, 1, 44, 44, 44, dtype=torch.uint8)
    synth = TumorSynthesizer(
        "liver", prob=1.0, mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), cirrhosis_prob=0.0, cluster_prob=0.5, satellite_prob=1.0,
        size_prob=(0.5, 0.3, 0.2, 0.0),
    )  # fmt: skip
    plan = synth.plan(image, label, ONE_MM, torch.arange(60))
    lesions = int(plan.active.sum())
    merged = 0
    for number in synth.render(image, label, plan).instances[:, 0].numpy():
        parts, _ = ndimage.label(number > 0, np.ones((3, 3, 3)))
        merged += sum(len(set(number[parts == part].tolist())) > 1 for part in range(1, parts.max() + 1))
    told("lesions that merge", lesions, merged, "0")
    assert lesions > 200
    assert merged == 0


@pytest.mark.parametrize(("bin_", "n"), [((0.0, 0.0, 1.0, 0.0), 64), ((0.0, 0.0, 0.0, 1.0), 96)], ids=["10-20", "20-44"])
def test_satellites_lie_within_20_mm(bin_, n, told):
    """Some 80 satellites of lesions of 10 to 20 and of 20 to 44 mm: from surface to surface, on a 1.5 mm grid."""
    image, label = torch.full((24, 1, n, n, n), 100.0), torch.ones(24, 1, n, n, n, dtype=torch.uint8)
    synth = TumorSynthesizer(
        "liver", prob=1.0, mass_effect=(0.0, 0.0), bulge=(0.0, 0.0), cirrhosis_prob=0.0, count=(1, 1), size_prob=bin_,
        satellite_prob=1.0,
    )  # fmt: skip
    plan = synth.plan(image, label, SPACING_MM, torch.arange(24))
    numbers, gaps = synth.render(image, label, plan).instances[:, 0].numpy(), []
    for record in plan.to_records():
        if record["near"]:
            number = numbers[record["uid"]]
            away = ndimage.distance_transform_edt(number != record["near"], SPACING_MM)
            gaps.append(away[number == record["lesion"]].min(initial=np.inf))
    gaps = np.array(gaps)[np.isfinite(gaps)]
    sizes = "10 to 20 mm" if bin_[2] else "20 to 44 mm"
    told(f"satellites of lesions of {sizes}, mm from them: the nearest", len(gaps), gaps.min(), "> 0")
    told(f"satellites of lesions of {sizes}, mm from them: the farthest", len(gaps), gaps.max(), "≤ 20")
    assert len(gaps) >= 50
    assert 0 < gaps.min() <= gaps.max() <= 20


def test_the_mass_effect_folds_nothing(told):
    """60 plans with bulges, every lesion at the surface or not: least Jacobian determinant of the map, by differences of a voxel."""
    image, label = torch.full((60, 1, 40, 40, 40), 100.0), torch.ones(60, 1, 40, 40, 40, dtype=torch.uint8)
    label[:, :, :12] = 0
    synth = TumorSynthesizer("liver", prob=1.0, count=(2, 6), bulge=(60.0, 60.0), size_prob=(0.2, 0.4, 0.4, 0.0))
    plan = synth.plan(image, label, ONE_MM, torch.arange(60))
    push_mm, push = plan.lesion[..., Trait.PUSH_MM], plan.lesion[..., Trait.PUSH]
    table = lesion_table(plan.centre_vox, push_mm, push, plan.active, ONE_MM).double()
    at = torch.stack(torch.meshgrid(*[torch.arange(0.0, 40.0, 1.0, dtype=torch.float64)] * 3, indexing="ij"), -1)
    least = []
    for rows in table:
        moved = at.clone()
        for *centre, per_mm, strength, _ in rows.tolist():
            away = at - torch.tensor(centre, dtype=torch.float64)
            left = (1.0 - away.norm(dim=-1, keepdim=True) * per_mm).clamp_min(0.0)
            moved -= strength * left**2 * away
        gradient = torch.stack(torch.gradient(moved, spacing=1.0, dim=(0, 1, 2)), -1)
        least.append(torch.linalg.det(gradient).min().item())
    told("Jacobian determinant of mass effect and bulge, the least", int(plan.active.sum()), min(least), "> 0")
    assert (plan.lesion[..., Trait.PUSH_MM] > plan.lesion[..., Trait.RADIUS])[plan.active].float().mean() > 0.3  # bulges
    assert min(least) > 0


@pytest.mark.real_ct
@pytest.mark.parametrize("name", CASES)
def test_every_effect_in_a_whole_ct_alters_what_it_declares(name, told):
    """30 lesions and more, all effects on: HU stay plausible; outside the organ, only mass effect, bulges and its surface alter."""
    image, label = case(name)
    synth = TumorSynthesizer(
        "liver", prob=1.0, scope="volume", count=(48, 48), size_prob=(0.6, 0.3, 0.09, 0.01), halo=(0.05, 0.15), cluster_prob=0.0,
        satellite_prob=1.0, cirrhosis_prob=1.0,
    )  # fmt: skip
    plan = synth.plan(image, label, SPACING_MM, torch.tensor([1]))
    out = synth.render(image, label, plan)
    lesions = len(out.records())
    told(f"lesions in {name} with every effect", lesions, lesions, "≥ 30")
    assert lesions >= 30
    assert image.min() - 25 <= out.image.min() <= out.image.max() <= image.max() + 25  # grain stays where moved tissue comes to lie
    added = (out.image - image)[0, 0][(label[0, 0] == 1) & (out.label[0, 0] == 1) & (out.occupancy[0, 0] == 0)].abs()
    assert added.quantile(0.99) < 80  # of the organ's own: nodules, halos, a surface that moves
    changed = ((out.image != image) & (label == 0))[0, 0]
    surface_vox = ndimage.distance_transform_edt((label[0, 0] == 0).numpy())[changed.numpy()]
    index = changed.nonzero().double()
    reach_mm = torch.stack(
        [
            (index - centre).mul(SPACING_MM[0]).norm(dim=1) - 1.3 * row[Trait.PUSH_MM]
            for centre, row in zip(plan.centre_vox[0], plan.lesion[0], strict=True)
        ]
    ).amin(0)
    assert ((reach_mm <= SPACING_MM[0]) | (torch.from_numpy(surface_vox) <= 8)).all()

"""What preset "liver" promises, counted: each figure with its sample size and bound."""

import numpy as np
import pytest
import torch
from ct_files import real_ct
from scipy import ndimage

from gpu_synth import TumorSynthesizer
from gpu_synth.conform import prepare_ct, prepare_label
from gpu_synth.kernels.tissue import tissue
from gpu_synth.sources import Source

SPACING_MM = (1.5, 1.5, 1.5)
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


def test_noise_inside_lesions_has_the_scans_spectrum():
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
    assert np.abs(after / before - 1).max() < 0.15, after / before


@pytest.mark.real_ct
@pytest.mark.parametrize("name", CASES)
def test_contrast_to_noise_floor_holds_in_every_ct(name):
    """12 lesions a CT, floor of 2: what was added to a lesion's body is at least twice the scan's noise, where nothing else was added."""
    image, label = case(name)
    synth = TumorSynthesizer(
        "liver", prob=1.0, scope="volume", count=(12, 12), cnr_floor=2.0, mass_effect=(0.0, 0.0), size_prob=(0.0, 0.4, 0.6, 0.0)
    )
    plan = synth.plan(image, label, SPACING_MM, torch.arange(1))
    out = synth.render(image, label, plan)
    noise = plan.noise_hu.item()
    asked = {record["lesion"]: record for record in plan.to_records() if record["kind"] in ("hypodense", "hyperdense", "cyst")}
    assert len(asked) >= 4
    for number, record in asked.items():
        inside = ndimage.binary_erosion((out.instances[0, 0] == number).numpy(), iterations=2)
        if inside.sum() < 20:
            continue
        added = (out.image - image)[0, 0].numpy()[inside].mean()
        assert abs(added) >= 0.85 * 2.0 * noise, (record["kind"], added, noise)  # its texture's mean is not zero in a small lesion


@pytest.mark.real_ct
def test_lesions_keep_clear_of_the_vessels_of_a_contrast_ct():
    """Some 100 lesions of 5 to 10 mm in the portal-venous CT: those that touch a vessel, before and after avoidance."""
    image, label = case("chaos_ctset3")
    vessel = tissue(image[:, 0], label[:, 0], 1, SPACING_MM).vessel[0].numpy() > 0
    touching, lesions = {}, {}
    for avoid in (False, True):
        synth = TumorSynthesizer(
            "liver",
            prob=1.0,
            scope="volume",
            count=(20, 20),
            size_prob=(0.0, 1.0, 0.0, 0.0),
            avoid_vessels=avoid,
            mass_effect=(0.0, 0.0),
            cluster_prob=0.0,
        )
        numbers = [
            synth.render(image, label, synth.plan(image, label, SPACING_MM, torch.tensor([uid]))).instances[0, 0].numpy()
            for uid in range(5)
        ]
        found = [(n == lesion) for n in numbers for lesion in np.unique(n[n > 0])]
        touching[avoid], lesions[avoid] = np.mean([vessel[mask].any() for mask in found]), len(found)
    assert min(lesions.values()) >= 90
    assert touching[False] > 0.5
    assert touching[True] < 0.25 * touching[False], touching


def test_lesions_do_not_merge():
    """60 samples, some 180 lesions: no voxel of one lesion has a voxel of another for a neighbour."""
    image, label = torch.full((60, 1, 36, 36, 36), 100.0), torch.ones(60, 1, 36, 36, 36, dtype=torch.uint8)
    synth = TumorSynthesizer("liver", prob=1.0, mass_effect=(0.0, 0.0), size_prob=(0.5, 0.5, 0.0, 0.0))
    plan = synth.plan(image, label, (1.0, 1.0, 1.0), torch.arange(60))
    assert plan.active.sum() > 150
    for number in synth.render(image, label, plan).instances[:, 0].numpy():
        _, parts = ndimage.label(number > 0, np.ones((3, 3, 3)))
        assert parts >= len(np.unique(number)) - 1

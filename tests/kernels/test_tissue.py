"""What a scan says about its organ, against NumPy and SciPy, on made-up fields, the phantom and real CT; kernels to the bit."""

import nibabel as nib
import numpy as np
import pytest
import torch
from ct_files import real_ct
from scipy.ndimage import gaussian_filter
from twins import assert_equal, on

from gpu_synth.kernels.tissue import VESSEL_LEAST_HU, VESSEL_LEAST_PERMILLE, excess, tissue
from gpu_synth.phantom import phantom

ONE_MM = (1.0, 1.0, 1.0)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def white(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def all_organ(image):
    return torch.ones(image.shape, dtype=torch.uint8)


def tubes(shape=(60, 50, 40), contrast_hu=60.0, noise_hu=10.0, radius_vox=3.0):
    """Noisy tissue of 100 HU with two bright tubes along k, an organ that one border cuts, air around it."""
    i, j, _ = np.indices(shape)
    tube = ((i - 20) ** 2 + (j - 25) ** 2 < radius_vox**2) | ((i - 40) ** 2 + (j - 20) ** 2 < radius_vox**2)
    organ = torch.from_numpy((j > 5) & (i < shape[0] - 6))
    image = 100 + noise_hu * white((1, *shape)) + contrast_hu * torch.from_numpy(tube)
    return torch.where(organ, image, -900.0), organ.to(torch.uint8)[None], torch.from_numpy(tube) & organ


# ---- HU ---------------------------------------------------------------------------------------------------------------------------------


def test_organ_hu_is_the_median_of_the_organ_alone():
    """Bins of 1 HU, evenly filled: within half an HU of the median."""
    image, label = 80 + 30 * white((3, 20, 21, 22)), (white((3, 20, 21, 22), 1) > 0).to(torch.uint8)
    label[0, :5] = 2  # a tumour
    image[label != 1] = 500
    expected = [float(np.median(image[n][label[n] == 1])) for n in range(3)]
    np.testing.assert_allclose(tissue(image, label, 1, ONE_MM).organ_hu.numpy(), expected, atol=0.5)


@pytest.mark.parametrize("hu", [-2000.0, -1024.0, -3.0, 0.0, 57.0, 3071.0, 1e30])
def test_a_constant_scan_has_its_hu_and_no_noise(hu):
    image = torch.full((1, 12, 12, 12), hu)
    organ_hu, noise_hu, vessel, _ = tissue(image, all_organ(image), 1, ONE_MM)
    assert (organ_hu.item(), noise_hu.item(), vessel.sum().item()) == (min(max(hu, -1024.0), 3071.0), 0.0, 0)


@pytest.mark.parametrize("organ", [0, 1, 3], ids=["none", "one-voxel", "three-voxels"])
def test_little_organ_is_finite(organ):
    image, label = torch.full((1, 9, 8, 7), 40.0), torch.zeros(1, 9, 8, 7, dtype=torch.uint8)
    label[0, 4, 4, :organ] = 1
    organ_hu, noise_hu, vessel, _ = tissue(image, label, 1, ONE_MM)
    assert (organ_hu.item(), noise_hu.item(), vessel.sum().item()) == (40.0 if organ else 0.0, 0.0, 0)


# ---- noise ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sd", [0.5, 3.0, 34.0, 100.0])
def test_white_noise_to_its_sd(sd):
    """A median of n sizes is off by 1.17 / √n, neighbours shared: 1 % is five of that at 64³; quarters add √(1/12)/4 HU."""
    image = 60 + sd * white((1, 64, 64, 64))
    assert tissue(image, all_organ(image), 1, ONE_MM).noise_hu.item() == pytest.approx(sd, rel=0.02)


def test_noise_is_blind_to_slopes_trends_edges_and_vessels():
    """A slope alone is no noise at all; vessels of 60 HU in 4 % of the organ, which a fifth of the residuals see, add 5 %."""
    i, j, k = torch.meshgrid(*(torch.arange(64.0) for _ in range(3)), indexing="ij")
    slope = (i + 2 * j - k)[None]
    assert tissue(slope, all_organ(slope), 1, ONE_MM).noise_hu.item() == 0.0
    vessel = 60.0 * (((i % 32 - 16) ** 2 + (j % 32 - 16) ** 2) < 16)
    image = (100 + slope[0] / 4 + 20 * torch.sin(i / 12) + vessel)[None] + 20 * white((1, 64, 64, 64))
    image[:, :4] = -1000  # beside the organ
    label = all_organ(image)
    label[:, :4] = 0
    assert tissue(image, label, 1, ONE_MM).noise_hu.item() == pytest.approx(20, rel=0.07)


@pytest.mark.parametrize(("blur_mm", "least"), [(0.5, 0.98), (1.0, 0.89), (1.5, 0.67)])
def test_bias_on_noise_that_is_correlated(blur_mm, least):
    """As the docstring's formula says, ρ(d) = exp(−d² / 4 blur²): 1.00, 0.91 and 0.68, within 2 %."""
    spacing = 0.75
    image = gaussian_filter(white((96, 96, 48)).double().numpy(), blur_mm / spacing, mode="wrap")
    image = torch.from_numpy(image / image.std() * 25 + 50)[None]
    rho = {d: np.exp(-((d / blur_mm) ** 2) / 4) for d in (3.0, 3.0 * 2**0.5, 6.0)}
    bias = np.sqrt(1 - 1.6 * rho[3.0] + 0.4 * rho[3.0 * 2**0.5] + 0.2 * rho[6.0])
    got = tissue(image, all_organ(image), 1, (spacing,) * 3).noise_hu.item() / 25
    assert got == pytest.approx(bias, rel=0.02)
    assert got >= least


def local_sd(image, organ, spacing_mm):
    """SD in squares of 12 mm of single slices that are all organ, less a fitted plane: that of quiet ones, and of ones with vessels."""
    half = [max(1, round(6 / spacing)) for spacing in spacing_mm[:2]]
    i, j = np.meshgrid(*(np.arange(2 * n + 1) for n in half), indexing="ij")
    plane = np.stack([np.ones(i.size), i.ravel(), j.ravel()], 1)
    found = []
    for k in range(0, organ.shape[2], 3):
        for p in range(half[0], organ.shape[0] - half[0], 2 * half[0]):
            for q in range(half[1], organ.shape[1] - half[1], 2 * half[1]):
                window = (slice(p - half[0], p + half[0] + 1), slice(q - half[1], q + half[1] + 1), k)
                if organ[window].all():
                    hu = image[window].ravel()
                    rest = hu - plane @ np.linalg.lstsq(plane, hu, rcond=None)[0]
                    found.append(np.sqrt((rest**2).sum() / (hu.size - 3)))
    return np.percentile(found, [10, 75])


def real_scan(name):
    folder = real_ct()
    ct, mask = (nib.as_closest_canonical(nib.load(folder / f"{name}_{kind}.nii.gz")) for kind in ("ct", "liver"))
    organ = np.asarray(mask.dataobj) > 0
    box = tuple(slice(max(0, used.min() - 4), used.max() + 5) for used in np.nonzero(organ))
    image = np.asarray(ct.dataobj[box], dtype=np.float32)
    return image, organ[box], [float(mm) for mm in ct.header.get_zooms()[:3]]


@pytest.mark.real_ct
@pytest.mark.parametrize(
    ("name", "organ_hu", "noise_hu", "vessel_percent"),
    [
        pytest.param("ccth_a01", 59, 31.8, (0, 0), id="noisy-without-contrast"),
        pytest.param("totalseg_example", 46, 11.3, (0, 0), id="3mm-without-contrast"),
        pytest.param("chaos_ctset3", 143, 23.2, (4, 8), id="portal-venous"),
    ],
)
def test_real_ct(name, organ_hu, noise_hu, vessel_percent):
    """Figures of the docstring, the SD of homogeneous squares around them, and vessels where there is contrast only."""
    image, organ, spacing = real_scan(name)
    got = tissue(torch.from_numpy(image)[None], torch.from_numpy(organ)[None].to(torch.uint8), 1, spacing)
    assert got.organ_hu.item() == pytest.approx(organ_hu, abs=1)
    assert got.noise_hu.item() == pytest.approx(noise_hu, abs=0.1)
    low, high = local_sd(image, organ, spacing)
    assert low <= got.noise_hu.item() <= high
    share = 100 * got.vessel.sum().item() / organ.sum()
    assert vessel_percent[0] <= share <= vessel_percent[1]


# ---- vessels ----------------------------------------------------------------------------------------------------------------------------


def test_vessels_are_found_and_nothing_else():
    """Tubes of 6 mm and 60 HU in noise of 10: all but their rim; beside them, of 3 SD, 1 in 700 by chance."""
    image, label, tube = tubes()
    vessel = tissue(image, label, 1, ONE_MM).vessel[0].bool()
    assert (vessel & tube).sum() > 0.85 * tube.sum()
    grown = torch.nn.functional.max_pool3d(tube[None].float(), (5, 5, 1), 1, (2, 2, 0))[0].bool()
    assert (vessel & ~grown).sum() < 0.003 * label.sum()
    assert not (vessel & (label[0] == 0)).any()


def test_threshold_is_that_of_a_gaussian_over_the_organ_alone():
    """Against SciPy in float64, no noise: weights of 5 bits are off by 2 % of the contrast, so voxels 3 HU from the threshold agree."""
    image, label, _ = tubes(noise_hu=0.0)
    organ = label[0].double().numpy()
    hu = np.where(organ > 0, image[0].double().numpy() - 100, 0)
    smooth = gaussian_filter(hu, 1.0, mode="constant") / gaussian_filter(organ, 1.0, mode="constant").clip(1e-9)
    vessel = tissue(image, label, 1, ONE_MM).vessel[0].bool().numpy()
    sure = (np.abs(smooth - VESSEL_LEAST_HU) > 3) & (organ > 0)
    assert np.array_equal(vessel[sure], (smooth > VESSEL_LEAST_HU)[sure])


def test_bright_surroundings_do_not_leak_in():
    image, label, _ = tubes(contrast_hu=0.0)
    image[label == 0] = 1500.0
    assert tissue(image, label, 1, ONE_MM).vessel.sum() == 0


@pytest.mark.parametrize("phase", ["venous", "none"])
def test_phantom_shows_vessels_with_contrast_only(phase):
    image, label = phantom(range(2), (128, 112, 80), phase=phase)
    vessel = tissue(image[:, 0], label[:, 0], 1, (2.0, 2.0, 2.0)).vessel
    share = 100 * vessel.flatten(1).sum(1) / label.flatten(1).sum(1)
    assert (share > VESSEL_LEAST_PERMILLE / 10).all() if phase == "venous" else (share == 0).all()


@pytest.mark.parametrize("contrast_hu", [40.0, 60.0, 300.0], ids=["faint", "venous", "artery"])
def test_without_their_excess_vessels_are_organ(contrast_hu):
    """Of a hard-edged tube of 3 voxels a Gaussian of 1 keeps ¾: so much goes, all of its middle (40 voxels, 3 SD); noise stays."""
    image, label, tube = tubes(contrast_hu=contrast_hu)
    known = tissue(image, label, 1, ONE_MM)
    more = excess(image, label, 1, known.organ_hu, known.foreign_hu, ONE_MM)[0] / 4
    left, tissue_alone = image[0] - more, (label[0] == 1) & ~tube
    assert abs(left[tube].mean() - 100) < 0.35 * contrast_hu
    assert abs(left[20, 25].mean() - 100) < 3 * 10 / 40**0.5 + 0.05 * contrast_hu
    assert abs(left[tissue_alone].mean() - 100) < 2.0 + 0.02 * contrast_hu
    far = tissue_alone & ~torch.nn.functional.max_pool3d(tube[None].float(), (9, 9, 1), 1, (4, 4, 0))[0].bool()
    assert left[far].std() == pytest.approx(image[0][far].std().item(), rel=0.01)
    assert (more[label[0] != 1] == 0).all()


def test_a_scan_without_vessels_has_no_excess():
    image, label, _ = tubes(contrast_hu=0.0)
    known = tissue(image, label, 1, ONE_MM)
    assert known.foreign_hu[0, 0].item() == 0
    assert (excess(image, label, 1, known.organ_hu, known.foreign_hu, ONE_MM) > 0).sum() == 0


@pytest.mark.parametrize("blur_vox", [0.0, 0.7, 1.2], ids=str)
def test_noise_is_not_taken_for_anything(blur_vox):
    """Noise of 30 HU, white, sharp and smooth, and nothing else: 1 voxel in 50 at most is touched, the SD stays within 2.5 %."""
    noise = gaussian_filter(white((64, 64, 64)).double().numpy(), blur_vox, mode="wrap")
    image = torch.from_numpy(100 + 30 * noise / noise.std()).float()[None]
    known = tissue(image, all_organ(image), 1, ONE_MM)
    less = excess(image, all_organ(image), 1, known.organ_hu, known.foreign_hu, ONE_MM) / 4
    assert (less != 0).float().mean() < 0.02
    assert abs(less.mean()) < 0.4
    assert (image - less).std() == pytest.approx(30, rel=0.025)


def test_fat_in_the_mask_is_taken_for_none_of_the_organ():
    """A fissure of 5 voxels and −200 HU, and air beyond the mask that does not leak in: its middle is as bright as the organ."""
    image, label, _ = tubes(contrast_hu=0.0)
    image[0, 28:33] -= 200
    known = tissue(image, label, 1, ONE_MM)
    less = excess(image, label, 1, known.organ_hu, known.foreign_hu, ONE_MM)[0] / 4
    left = (image[0] - less)[label[0] == 1]
    assert (image[0] - less)[30, 6:].mean().item() == pytest.approx(100, abs=2)
    assert left.mean().item() == pytest.approx(100, abs=3)
    assert (less[label[0] != 1] == 0).all()


def test_vessels_are_left_out_on_request():
    image, label, _ = tubes()
    without, with_them = (tissue(image, label, 1, ONE_MM, vessels=vessels) for vessels in (False, True))
    assert without.vessel.sum() == 0 < with_them.vessel.sum()
    assert_equal(without.noise_hu, with_them.noise_hu)


# ---- what is not finite, types, batches -------------------------------------------------------------------------------------------------


def spoilt(image):
    image = image.clone()
    image.view(-1)[::97] = torch.nan
    image.view(-1)[5::97] = torch.inf
    image.view(-1)[11::97] = -torch.inf
    return image


def test_what_is_not_finite_is_as_if_it_were_no_organ():
    image, label, _ = tubes()
    bad = spoilt(image)
    got, expected = tissue(bad, label, 1, ONE_MM), tissue(image, label * bad.isfinite(), 1, ONE_MM)
    for value, right in zip(got, expected, strict=True):
        assert_equal(value, right)
    assert got.vessel.sum() > 0


def test_a_sample_is_the_same_alone_and_in_a_batch():
    image = torch.cat([tubes()[0], 50 + 30 * white((1, 60, 50, 40)), torch.full((1, 60, 50, 40), 7.0)])
    label = torch.cat([tubes()[1], all_organ(image[:1]), torch.zeros_like(tubes()[1])])
    together = tissue(image, label, 1, ONE_MM)
    for n in range(3):
        for part, whole in zip(tissue(image[n : n + 1], label[n : n + 1], 1, ONE_MM), together, strict=True):
            assert_equal(part[0], whole[n])


CASES = {
    "anisotropic-0.7-0.7-5mm": ((2, 37, 33, 9), (0.7, 0.7, 5.0), 1.0),
    "one-sample-of-2mm": ((1, 31, 26, 23), (2.0, 2.0, 2.0), 1.0),
    "finer-than-the-smoothing": ((1, 20, 31, 22), (0.3, 0.4, 0.25), 1.0),
    "thinner-than-the-lags": ((3, 5, 2, 41), (1.0, 1.0, 1.0), 1.0),
    "many-blocks": ((2, 41, 36, 27), (1.0, 1.0, 1.0), 0.97),
    "one-voxel": ((2, 1, 1, 1), (1.0, 1.0, 1.0), 1.0),
    "no-organ": ((2, 9, 8, 7), (1.0, 1.0, 1.0), 0.0),
}


@pytest.mark.parametrize(("shape", "spacing_mm", "share"), CASES.values(), ids=CASES)
def test_kernels_are_the_twin(device, shape, spacing_mm, share):
    """To the bit: integers, and float64 that both make from the same integers."""
    image = 60 + 30 * white(shape)
    image[:, shape[1] // 3 : shape[1] // 2] += 90
    image[:, :, -1] = -800
    label = (torch.rand(shape, generator=torch.Generator().manual_seed(3)) < share).to(torch.uint8)
    for hu in (image, spoilt(image)):
        twin = tissue(hu, label, 1, spacing_mm)
        got = tissue(*on(device, (hu, label)), 1, spacing_mm, backend="cupy")
        for kernel, expected in zip(got, twin, strict=True):
            assert_equal(kernel, expected)
        for foreign_hu in (twin.foreign_hu, 20.0 + torch.arange(2.0 * shape[0]).view(-1, 2)):
            of_organ = twin.organ_hu, foreign_hu
            assert_equal(
                excess(*on(device, (hu, label)), 1, *on(device, of_organ), spacing_mm, "cupy"), excess(hu, label, 1, *of_organ, spacing_mm)
            )
        if min(shape[1:]) > 20 and share:
            assert 0 < twin.vessel.sum() < label.sum()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_kernels_read_images_as_the_twin(device, dtype):
    image, label, _ = tubes((40, 39, 11))
    image = spoilt(image).to(dtype)
    image[0, 10, 10, 3] = torch.finfo(dtype).max
    got, twin = tissue(*on(device, (image, label)), 1, ONE_MM, backend="cupy"), tissue(image, label, 1, ONE_MM)
    for kernel, expected in zip(got, twin, strict=True):
        assert_equal(kernel, expected)
    assert twin.organ_hu.item() == pytest.approx(100, abs=2)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_labels_of_any_integer_type(device, dtype):
    image, label, _ = tubes((33, 31, 9))
    twin = tissue(image, label, 1, ONE_MM)
    for backend, where in (("torch", torch.device("cpu")), ("cupy", device)):
        for value, expected in zip(tissue(*on(where, (image, label.to(dtype))), 1, ONE_MM, backend=backend), twin, strict=True):
            assert_equal(value, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_default_type_does_not_matter(dtype):
    image, label, _ = tubes()
    expected = tissue(image, label, 1, ONE_MM)
    torch.set_default_dtype(dtype)
    try:
        got = tissue(image, label, 1, ONE_MM)
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, theirs in zip(got, expected, strict=True):
        assert_equal(mine, theirs)

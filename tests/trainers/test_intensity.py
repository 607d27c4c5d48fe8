"""The way to HU and back, and the word said where data are not what they were said to be."""

import pickle
import warnings

import jsonargparse
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from torch.utils.data import DataLoader

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.trainers.intensity import HU, LOOKS, HUCheck, Intensity, Inverse, Window, ZScore, back
from gpu_synth.trainers.step import IntensityStep

SPACING_MM = (6.0, 6.0, 6.0)
SCAN = phantom([0, 1], (40, 36, 28), SPACING_MM)
UID = torch.arange(2)


def halve(image_hu):
    return image_hu / 2 + 30


def double(image):
    return (image - 30) * 2


WAYS = {
    "HU": HU(),
    "window": Window(-200.0, 300.0),
    "z-score": ZScore(80.0, 40.0),
    "clipped z-score": ZScore(80.0, 40.0, clip_hu=(-150.0, 250.0)),
    "functions": Inverse(double, halve),
}


def made(intensity, image, label=SCAN.label, **options):
    return IntensityStep(TumorSynthesizer(prob=1.0, **options), intensity=intensity)(image, label, SPACING_MM, UID)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("way", WAYS)
def test_tumours_are_those_of_hu_whatever_the_batch_holds(way, dtype):
    """Where a clip cut nothing off: elsewhere a preset that measures the scan measures what is left of it."""
    intensity = WAYS[way]
    held = intensity.from_hu(SCAN.image.clamp(-150, 250)).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, label = made(intensity, held)
        image_hu, label_hu = made(HU(), intensity.to_hu(held.float()))
    assert (label == 2).sum() > 50
    assert (label != label_hu).sum() <= (0 if dtype == torch.float32 else 20)
    assert image.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-2}[dtype]
    torch.testing.assert_close(image.float(), intensity.from_hu(image_hu), rtol=tolerance, atol=tolerance * float(held.std()))
    untouched = image_hu == intensity.to_hu(held.float())
    assert 0.9 < untouched.float().mean() < 1.0
    assert torch.equal(image[untouched & (label == label_hu)], held[untouched & (label == label_hu)]), "to the bit"


def test_integers_and_floating_labels_come_back_as_they_came():
    image, label = made(HU(), SCAN.image.round().to(torch.int16), SCAN.label.float())
    again, whole = made(HU(), SCAN.image.round(), SCAN.label)
    assert image.dtype == torch.int16
    assert label.dtype == torch.float32
    assert torch.equal(image, again.round().to(torch.int16))
    assert torch.equal(label, whole.float())
    assert set(label.unique().tolist()) == {0.0, 1.0, 2.0}


def test_nan_stays_and_does_not_spread():
    image_hu = torch.tensor([0.0, float("nan"), 50.0])
    came = back(Window(0.0, 100.0), image_hu / 100, image_hu, torch.tensor([10.0, float("nan"), 50.0]))
    torch.testing.assert_close(came, torch.tensor([0.1, float("nan"), 0.5]), equal_nan=True)


def test_integers_that_cannot_hold_a_lesion_hold_their_limits():
    """Not what is left of it modulo 256, which would be a bright lesion for a dark one."""
    way = Inverse(lambda image: image * 10 - 200, lambda image_hu: (image_hu + 200) / 10)
    image = torch.tensor([0, 250, 128], dtype=torch.uint8)
    came = back(way, image, way.to_hu(image.float()), torch.tensor([-300.0, 2600.0, 500.0]))
    assert came.tolist() == [0, 255, 70]


@pytest.mark.parametrize(
    ("intensity", "image", "word"),
    [
        (HU(), Window(-200.0, 300.0).from_hu(SCAN.image), r"got HU and values from 0 to 1 HU, as of a scaled image; .*intensity=Window"),
        (HU(), ZScore(-300.0, 400.0).from_hu(SCAN.image), "as of a scaled image"),
        (HU(), (Window(-200.0, 300.0).from_hu(SCAN.image) * 255).round(), "values from 0 to 255 HU, as of an 8-bit picture"),
        (HU(), SCAN.image + 1024, r"1\d\d\d on average in the organ; add the scan's rescale intercept"),
        (Window(-200.0, 300.0), SCAN.image, r"got Window .* on average in the organ; .*HU\(\) if the batch is in HU"),
        (ZScore(80.0, 40.0), SCAN.image, r"got ZScore .* on average in the organ"),
        (Window(-200.0, 300.0), ZScore(0.0, 200.0).from_hu(SCAN.image), r"the way back changes \d+ % of the voxels; give ZScore"),
        (Inverse(double, double), halve(SCAN.image), "got Inverse .* the way back changes"),
    ],
    ids=["window", "z-score", "8-bit", "raw", "HU twice", "HU scaled", "another scaling", "no inverse"],
)
def test_what_is_no_hu_is_said_once_and_left_as_it_is(intensity, image, word):
    step = IntensityStep(TumorSynthesizer(prob=1.0), soft_labels=True, intensity=intensity)
    with pytest.warns(UserWarning, match=f"{word}.* Until then nothing is synthesised") as said:
        first = step(image, SCAN.label, SPACING_MM)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = step(image, SCAN.label, SPACING_MM)
    for same_image, same_label, share in (first, second):
        assert torch.equal(same_image, image)
        assert torch.equal(same_label, SCAN.label)
        assert not share.any()
    assert (step.synthesizer.lesions, step.synthesizer.skipped) == (0, 4)


def test_a_scaling_without_a_clip_is_told_its_way_back():
    """MONAI's ScaleIntensityRanged clips only where it is asked to."""
    unclipped = (SCAN.image + 200) / 500
    with pytest.warns(UserWarning, match=r"ZScore\(-200, 500\) if nothing clipped the batch"):
        made(Window(-200.0, 300.0), unclipped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, label = made(ZScore(-200.0, 500.0), unclipped)
    assert (label == 2).any()
    torch.testing.assert_close(image * 500 - 200, made(HU(), unclipped * 500 - 200)[0], rtol=0, atol=0.05)


def test_the_first_batch_that_holds_organ_is_judged():
    """Crops of padding or air tell nothing, whatever their values; with the organ in sight, raw values of an offset do."""
    step = IntensityStep(TumorSynthesizer(prob=1.0))
    nothing = torch.zeros_like(SCAN.image), torch.zeros_like(SCAN.label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [step(*nothing, SPACING_MM) for _ in range(LOOKS - 1)]
    with pytest.warns(UserWarning, match="on average in the organ; add the scan's rescale intercept"):
        step(SCAN.image + 1024, SCAN.label, SPACING_MM)


def test_a_label_that_never_holds_the_organ_is_told():
    step = IntensityStep(TumorSynthesizer(prob=1.0))
    with pytest.warns(UserWarning, match=rf"no value 1 in the first {LOOKS} batches, in the last one 0, 6; name .*organ_label") as said:
        [step(SCAN.image, SCAN.label * 6, SPACING_MM) for _ in range(LOOKS + 2)]
    assert len(said) == 1
    _, label = IntensityStep(TumorSynthesizer(prob=1.0, organ_label=6))(SCAN.image, SCAN.label * 6, SPACING_MM)
    assert (label == 2).any()


@pytest.mark.parametrize("crop", ["air", "organ", "constant", "all"])
def test_nothing_is_said_of_crops_of_ct(crop):
    image = SCAN.image[:1].clone()
    if crop == "constant":
        image[:] = 100
    index = {"air": (..., slice(0, 8), slice(0, 8), slice(0, 8)), "organ": (..., slice(24, 32), slice(14, 20), slice(10, 16))}.get(
        crop, ...
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert HUCheck()(HU(), image[index], image[index], SCAN.label[:1][index], 1)


class Scaled:
    """A data set that synthesises, in whatever process reads it."""

    def __init__(self):
        self.check = HUCheck()

    def __len__(self):
        return 8

    def __getitem__(self, n):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit = self.check(HU(), SCAN.image / 1000, SCAN.image / 1000, SCAN.label, 1)
        return len(said), fit


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_said_once_by_all_workers_in_all_epochs(workers):
    loader = DataLoader(Scaled(), batch_size=1, num_workers=workers)
    seen = [(int(said), bool(fit)) for _ in range(2) for said, fit in loader]
    assert sum(said for said, _ in seen) == 1
    assert not any(fit for _, fit in seen), "nor does one of them paint, which may have come before the one that speaks"


@pytest.mark.parametrize("way", WAYS)
def test_ways_are_data(way):
    assert pickle.loads(pickle.dumps(WAYS[way])) == WAYS[way]


def test_ways_stand_in_yaml():
    window, z_score = Window(-21.0, 189.0), ZScore(80.0, 40.0, (-150.0, 250.0))
    config = """
    window: {_target_: gpu_synth.trainers.intensity.Window, low_hu: -21, high_hu: 189}
    z_score: {_target_: gpu_synth.trainers.intensity.ZScore, mean_hu: 80, std_hu: 40, clip_hu: [-150, 250]}
    """
    parser = ConfigParser(yaml.safe_load(config))
    assert parser.get_parsed_content("window") == window
    assert parser.get_parsed_content("z_score").from_hu(torch.tensor(500.0)) == z_score.from_hu(torch.tensor(500.0))
    cli = jsonargparse.ArgumentParser(exit_on_error=False)
    cli.add_argument("--intensity", type=Intensity)
    given = cli.parse_args(["--intensity", "gpu_synth.trainers.intensity.Window", "--intensity.low_hu=-21", "--intensity.high_hu=189"])
    assert cli.instantiate(given).intensity == window


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Window(189.0, -21.0), "low_hu must be under high_hu, got 189.0 and -21.0; swap them"),
        (lambda: ZScore(0.0, 0.0), "std_hu must be above 0, got 0.0"),
        (lambda: ZScore(0.0, 1.0, (5.0, -5.0)), r"clip_hu must be \(low, high\) with low < high, got \(5.0, -5.0\); swap them"),
    ],
)
def test_wrong_numbers_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_what_is_no_way_is_refused():
    with pytest.raises(TypeError, match=r"intensity must be HU\(\), Window, ZScore or Inverse .* got \(-21, 189\)"):
        IntensityStep(TumorSynthesizer(), intensity=(-21, 189))
    with pytest.raises(TypeError, match="synthesizer must be a TumorSynthesizer, got str"):
        IntensityStep("liver")


@pytest.mark.cuda
@pytest.mark.parametrize("intensity", [HU(), Window(-200.0, 300.0), ZScore(80.0, 40.0)])
def test_after_the_first_batch_nothing_waits(intensity):
    step = IntensityStep(TumorSynthesizer(prob=1.0), intensity=intensity)
    image, label = intensity.from_hu(SCAN.image).cuda(), SCAN.label.cuda()
    for _ in range(3):
        step(image, label, SPACING_MM)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(image, label, SPACING_MM)
    finally:
        torch.cuda.set_sync_debug_mode("default")

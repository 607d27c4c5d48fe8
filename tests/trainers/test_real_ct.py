"""Pipelines as people write them, over CT as it lies on disk: tumours, no word about HU, and what was given untouched."""

import warnings

import numpy as np
import pytest
import torch
import torchio as tio
from adapted import synthesizer
from ct_files import real_ct
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    ScaleIntensityRanged,
    Spacingd,
)

from gpu_synth.trainers.monai import RandTumord
from gpu_synth.trainers.torchio import RandomTumor

KEYS, SPACING_MM = ("image", "label"), (3.0, 3.0, 4.0)


@pytest.fixture(autouse=True)
def nothing_is_said_of_hu():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*must lead to HU.*")
        yield


@pytest.mark.real_ct
def test_monais_usual_pipeline():
    files = dict(zip(KEYS, (f"{real_ct()}/totalseg_example_{name}.nii.gz" for name in ("ct", "liver")), strict=True))
    pipeline = Compose(
        [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            Orientationd(KEYS, "RAS"),
            Spacingd(KEYS, SPACING_MM, mode=("bilinear", "nearest")),
            RandCropByPosNegLabeld(KEYS, "label", (48, 48, 32), pos=1, neg=0, num_samples=3),
            RandTumord(KEYS, synthesizer()),
            ScaleIntensityRanged("image", -175, 250, 0, 1, clip=True),
        ]
    ).set_random_state(0)
    patches = pipeline(files)
    assert [bool((patch["label"] == 2).any()) for patch in patches] == [True] * 3
    for patch in patches:
        assert np.allclose(patch["image"].pixdim, SPACING_MM)
        steps = [step["class"] for step in patch["image"].applied_operations]
        assert steps == ["Orientation", "SpatialResample", "RandCropByPosNegLabel"]


@pytest.mark.real_ct
def test_torchios_usual_pipeline():
    folder = real_ct()
    subject = tio.Subject(
        ct=tio.ScalarImage(folder / "totalseg_example_ct.nii.gz"), liver=tio.LabelMap(folder / "totalseg_example_liver.nii.gz")
    )
    torch.manual_seed(0)
    made = tio.Compose([tio.ToCanonical(), tio.Resample(SPACING_MM), RandomTumor(synthesizer())])(subject)
    assert (made["liver"].data == 2).any()
    assert not (subject["liver"].data == 2).any()
    before, after = made.history[1](made.history[0](subject))["ct"].data, made["ct"].data
    outside = made["liver"].data == 0
    assert (before != after)[~outside].any()
    assert (before != after).sum() < 0.2 * before.numel()

"""Raw data sets for nnU-Net, what they are told to synthesise, and the HU that a fingerprint lets through; without nnU-Net."""

import json
from functools import cache

import numpy as np
import pytest
from ct_files import CENTRE_MM, RADII_MM, affine, ct, organ
from dicom_files import write_series
from dicom_mask_files import ellipse_contours, write_rtstruct

from gpu_synth.cli import main
from gpu_synth.phantom import phantom
from gpu_synth.trainers.nnunet_dataset import nnunet_dataset
from gpu_synth.trainers.nnunet_fingerprint import lesion_hu, widen
from gpu_synth.trainers.nnunet_options import mark, synthesizer
from gpu_synth.volumes import read_nifti, save_nifti

SPACING_MM = (6.0, 5.0, 7.0)
SHAPE = (36, 40, 30)


@cache
def person(uid):
    return phantom(uid, SHAPE, SPACING_MM)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.delenv("nnUNet_tumorSynth", raising=False)
    return tmp_path / "raw"


@pytest.fixture
def files(tmp_path):
    """Three CTs, lying left-posterior-superior as scanners write them, whose masks have the organ as 5 and a tumour as 7."""
    for name in ("cts", "masks"):
        (tmp_path / name).mkdir()
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    for uid in range(3):
        image, label = (x[0, 0].flip(0, 1).numpy() for x in person(uid))
        label = label * np.uint8(5)
        if uid == 2:
            label[tuple(at[len(at) // 2] for at in label.nonzero())] = 7
        save_nifti(tmp_path / "cts" / f"p{uid}.nii.gz", image.round().astype(np.int16), affine)
        save_nifti(tmp_path / "masks" / f"p{uid}.nii.gz", label, affine)
    return tmp_path


def test_files_become_a_data_set_on_their_own_grids_that_declares_the_tumour(raw, files):
    command = ["nnunet-dataset", "--dataset", "17", "--name", "Liver", "--images", str(files / "cts"), "--labels", str(files / "masks")]
    assert main([*command, "--organ_labels", "5", "--tumor_labels", "7"]) == 0
    folder = raw / "Dataset017_Liver"
    record = json.loads((folder / "dataset.json").read_text())
    assert record["labels"] == {"background": 0, "organ": 1, "tumor": 2}
    assert (record["channel_names"], record["numTraining"], record["file_ending"]) == ({"0": "CT"}, 3, ".nii.gz")
    assert sorted(path.name for path in folder.rglob("*.gz")) == sorted(
        name for n in range(3) for name in (f"p{n}.nii.gz", f"p{n}_0000.nii.gz")
    )
    for uid in range(3):
        image, label = read_nifti(folder / "imagesTr" / f"p{uid}_0000.nii.gz"), read_nifti(folder / "labelsTr" / f"p{uid}.nii.gz")
        expected = person(uid)
        assert np.array_equal(image.data, expected.image[0, 0].round().numpy().astype(np.int16)), "RAS, each voxel as it was"
        assert np.array_equal(label.data > 0, expected.label[0, 0].numpy() > 0)
        assert (label.data == 2).sum() == (uid == 2)
        assert np.allclose(image.affine, label.affine)
        assert image.spacing_mm == SPACING_MM


def test_prepared_scans_become_one_as_they_are(raw, files, tmp_path):
    masks = ["--images", str(files / "cts"), "--labels", str(files / "masks"), "--organ_labels", "5", "--spacing_mm", "7,7,7"]
    assert main(["prepare", "--out", str(tmp_path / "cache"), *masks]) == 0
    assert nnunet_dataset(dataset=1, data_dir=tmp_path / "cache") == 0
    for uid in range(3):
        for there, here in (("image.nii", f"imagesTr/p{uid}_0000.nii.gz"), ("label.nii", f"labelsTr/p{uid}.nii.gz")):
            before, after = read_nifti(tmp_path / "cache" / f"p{uid}" / there), read_nifti(raw / "Dataset001_TumorSynth" / here)
            assert np.array_equal(before.data, after.data)
            assert np.allclose(before.affine, after.affine)


def test_contours_become_one_by_name_on_their_cts_own_grid(raw, tmp_path):
    heights_mm = affine()[2, 3] + 3.0 * np.arange(23)
    tumor_mm = np.array([9.0, 8.0, 12.0])
    write_series(tmp_path / "patients" / "a", uid="1.2.3")
    contours = {"Liver": ellipse_contours(CENTRE_MM, RADII_MM, heights_mm), "GTV": ellipse_contours(CENTRE_MM, tumor_mm, heights_mm)}
    write_rtstruct(tmp_path / "patients" / "a" / "rt.dcm", contours)
    where = ["--images", f"{tmp_path}/patients", "--labels", f"{tmp_path}/patients"]
    assert main(["nnunet-dataset", "--dataset", "17", *where, "--organ_names", "liver", "--tumor_names", "gtv"]) == 0
    image, label = (read_nifti(raw / "Dataset017_TumorSynth" / name) for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"))
    assert np.array_equal(image.data, ct())
    assert np.array_equal(label.data > 0, organ() > 0)
    assert (label.data == 2).sum() == pytest.approx(4 / 3 * np.pi * tumor_mm.prod() / np.prod(image.spacing_mm), rel=0.02)


def test_a_nifti_mask_says_that_names_are_not_looked_at(raw, files, capsys):
    command = ["nnunet-dataset", "--dataset", "17", "--images", str(files / "cts"), "--labels", str(files / "masks"), "--organ_labels", "5"]
    assert main([*command, "--organ_names", "Liver"]) == 0
    assert capsys.readouterr().out.count("a NIfTI mask names nothing: its values are read by --organ_labels") == 3


def test_a_case_that_cannot_be_used_is_left_out_and_said(raw, files, capsys):
    save_nifti(files / "masks" / "p1.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([-6.0, -5.0, 7.0, 1.0]))
    command = ["nnunet-dataset", "--dataset", "17", "--images", str(files / "cts"), "--labels", str(files / "masks"), "--organ_labels", "5"]
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "refused p1" in told
    assert "2 cases" in told
    assert "p2: mask values 7 are neither organ nor tumour" in told
    assert "fold all" in told
    assert json.loads((raw / "Dataset017_TumorSynth" / "dataset.json").read_text())["numTraining"] == 2


def test_a_run_that_ended_early_leaves_nothing_behind(raw, files):
    """Each file in imagesTr is a case to nnU-Net: one that is refused now goes, one that is nobody's is told."""
    folder = raw / "Dataset017_TumorSynth"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / "p1_0000.nii.gz").write_bytes(b"half a file")
    options = {"dataset": 17, "images": files / "cts", "labels": files / "masks", "organ_labels": (5,)}
    (folder / "imagesTr" / "other_0000.nii.gz").touch()
    with pytest.raises(ValueError, match=r"must hold nothing but these cases, got imagesTr/other_0000.nii.gz; remove it"):
        nnunet_dataset(**options)
    (folder / "imagesTr" / "other_0000.nii.gz").unlink()
    save_nifti(files / "masks" / "p1.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([-6.0, -5.0, 7.0, 1.0]))
    assert nnunet_dataset(**options) == 1
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == ["p0_0000.nii.gz", "p2_0000.nii.gz"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"dataset": 1000}, "from 1 to 999"),
        ({"name": "a b"}, "letters, figures and _"),
        ({"images": "x", "labels": "y"}, "one of them alone"),
        ({"data_dir": None}, "must be given"),
        ({"dataset": 3}, "Dataset003_Other"),
        ({"data_dir": "/nowhere"}, "gpu-synth prepare"),
        ({"organ_labels": (5,)}, "organ_labels must be left out where data_dir is given"),
        ({"tumor_names": ("GTV",)}, "tumor_names must be left out where data_dir is given"),
    ],
    ids=["number", "name", "two-sources", "no-source", "in-use", "no-cache", "values", "names"],
)
def test_a_mistake_is_refused(raw, more, says):
    (raw / "Dataset003_Other").mkdir(parents=True)
    with pytest.raises(ValueError, match=says):
        nnunet_dataset(**{"dataset": 17, "data_dir": "/nowhere", **more})


def test_nnunets_folders_must_be_named(monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["nnunet-dataset", "--dataset", "17", "--data_dir", "/nowhere"]) == 2
    assert "nnUNet_raw must be set" in capsys.readouterr().err


# ---- the fingerprint --------------------------------------------------------------------------------------------------------------------

FINGERPRINT = {"spacings": [[7.0, 5.0, 6.0]], "foreground_intensity_properties_per_channel": {"0": {}}}
HU = {"mean": 100.0, "median": 101.0, "std": 20.0, "min": 10.0, "max": 190.0, "percentile_00_5": 50.0, "percentile_99_5": 150.0}


@pytest.mark.parametrize(
    ("lesions", "limits", "extremes"),
    [
        ((-30.0, 120.0), (-30.0, 150.0), (-30.0, 190.0)),
        ((80.0, 400.0), (50.0, 400.0), (10.0, 400.0)),
        ((60.0, 140.0), (50.0, 150.0), (10.0, 190.0)),
    ],
    ids=["darker", "brighter", "within"],
)
def test_only_the_limits_move_and_only_outwards(tmp_path, lesions, limits, extremes):
    path = tmp_path / "dataset_fingerprint.json"
    path.write_text(json.dumps({**FINGERPRINT, "foreground_intensity_properties_per_channel": {"0": HU}}))
    widen(path, np.repeat(np.array(lesions, np.float32), 1000), synthesizer({}, axial_axis=0))
    after = json.loads(path.read_text())
    new = after["foreground_intensity_properties_per_channel"]["0"]
    assert (new["percentile_00_5"], new["percentile_99_5"]) == limits
    assert (new["min"], new["max"]) == extremes
    assert {key: new[key] for key in ("mean", "median", "std")} == {key: HU[key] for key in ("mean", "median", "std")}
    assert new["tumor_synth"] == mark(synthesizer({"prob": 0.5, "seed": 9}, axial_axis=1))
    assert after["spacings"] == FINGERPRINT["spacings"]


def test_a_mark_tells_lesions_of_other_hu_from_these(monkeypatch):
    monkeypatch.delenv("nnUNet_tumorSynth", raising=False)
    marks = [mark(synthesizer({"preset": name}, axial_axis=axis)) for name in ("liver", "pancreas", "liver-hu2022") for axis in (0, 2)]
    assert marks[::2] == marks[1::2], "whichever way the arrays lie"
    darker = mark(synthesizer({"preset": "liver-hu2022", "contrast_hu": (-300.0, -200.0)}, axial_axis=0))
    assert len({*marks, darker}) == 4


def test_no_lesion_is_no_fingerprint(tmp_path):
    with pytest.raises(ValueError, match="organ must hold a lesion"):
        widen(tmp_path / "none.json", np.empty(0, np.float32), synthesizer({}, axial_axis=0))


def test_lesions_are_measured_in_nnunets_axes_and_healthy_limits_would_cut_them():
    image, label = phantom(0, (56, 48, 40), (4.0, 5.0, 5.0))
    zyx = image[0].permute(0, 3, 2, 1).numpy(), label[0].permute(0, 3, 2, 1).numpy()
    synth = synthesizer({"preset": "liver-hu2022"}, axial_axis=0, prob=1.0)
    lesions = np.concatenate([lesion_hu(synth, *zyx, (5.0, 5.0, 4.0), uid) for uid in range(4)])
    healthy = image[label == 1].numpy()
    low = np.percentile(healthy, 0.5)
    assert lesions.mean() < healthy.mean() - 20
    assert np.mean(lesions < low) > 0.02, "what is cut off without"
    again = np.concatenate([lesion_hu(synth, *zyx, (5.0, 5.0, 4.0), uid) for uid in range(4)])
    assert np.array_equal(lesions, again)
    assert len(lesion_hu(synth, zyx[0], np.zeros_like(zyx[1]), (5.0, 5.0, 4.0), 0)) == 0


# ---- what is synthesised ----------------------------------------------------------------------------------------------------------------


def test_a_variable_is_laid_over_what_a_trainer_says(monkeypatch):
    monkeypatch.setenv("nnUNet_tumorSynth", "{preset: pancreas, prob: 0.5, organ_label: 4}")
    made = synthesizer({"preset": "liver", "seed": 7}, axial_axis=0)
    assert (made.preset.name, made.prob, made.organ_label, made.tumor_label, made.seed) == ("pancreas", 0.5, 4, 2, 7)


@pytest.mark.parametrize(("given", "axis"), [("", 1), ("{axial_axis: 2}", 2)])
def test_presets_that_ask_for_the_axial_axis_get_it(monkeypatch, given, axis):
    monkeypatch.setenv("nnUNet_tumorSynth", given)
    assert synthesizer({"preset": "liver-hu2022"}, axial_axis=1).preset.axial_axis == axis


@pytest.mark.parametrize(
    ("given", "says"),
    [("liver", "YAML mapping"), ("{preset: [", "YAML mapping"), ("{preset: livr}", "did you mean 'liver'"), ("{prop: 1}", "did you mean")],
    ids=["word", "no-yaml", "preset", "field"],
)
def test_what_it_must_be_is_said(monkeypatch, given, says):
    monkeypatch.setenv("nnUNet_tumorSynth", given)
    with pytest.raises(ValueError, match=says):
        synthesizer({}, axial_axis=0)

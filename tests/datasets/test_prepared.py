"""`gpu-synth prepare --dataset`: from the folder as downloaded to what training reads."""

import dataset_folders as made
import nibabel as nib
import numpy as np
import pytest
import torch

from gpu_synth.cli import main
from gpu_synth.manifest import load_case, load_manifest
from gpu_synth.prepare.run import prepare
from gpu_synth.volumes import Volume, to_ras

SPACING = "7,7,8"


def run(dataset, root, out, *more) -> int:
    return main(["prepare", "--dataset", dataset, "--root", str(root), "--out", str(out), "--spacing_mm", SPACING, *more])


@pytest.mark.parametrize(
    ("name", "make", "first"),
    [("lits", made.lits, "lits_000"), ("chaos", made.chaos, "chaos_01"), ("3d-ircadb-01", made.ircad, "ircad_01")],
)
def test_cases_are_prepared_as_nifti_files_would_be(tmp_path, name, make, first):
    """NIfTI, DICOM with pictures, archives: on their own spacing no voxel changes, and tumours stay where there are any."""
    root = make(tmp_path / "raw")
    assert run(name, root, tmp_path / "cache") == 0
    manifest = load_manifest(tmp_path / "cache")
    assert (manifest.settings["dataset"], manifest.settings["organ"], manifest.refused) == (name, "liver", ())
    image, label, _ = load_case(manifest, first)
    hu, liver = made.body(int(first.rsplit("_", 1)[1]))
    wanted = to_ras(Volume(hu, made.AFFINE)).data
    assert torch.equal(image[0], torch.from_numpy(np.clip(wanted, -1024, 3071)))
    mask = liver if name == "chaos" else made.with_tumor(liver)
    assert torch.equal(label[0], torch.from_numpy(mask))
    assert (manifest.case(first).tumor_ml > 0) == (name != "chaos")


def test_a_bad_case_is_refused_and_the_others_go_on(tmp_path, capsys):
    root = made.btcv(tmp_path / "raw", numbers=(1, 2, 3))
    labels = root / "RawData" / "Training" / "label"
    (labels / "label0002.nii.gz").unlink()
    mask = nib.load(labels / "label0003.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[:, :-1], mask.affine), labels / "label0003.nii.gz")
    assert run("btcv", root, tmp_path / "cache") == 1
    said = capsys.readouterr()
    assert "BTCV, liver: 30 cases expected, 2 found, 1 incomplete (btcv_0002); not there: btcv_0004," in said.err
    assert "refused btcv_0002" in said.out
    assert "label0002.nii.gz: must be there, as the rest of btcv_0002 is, got no such file or folder; download it again" in said.out
    assert "label0003.nii.gz: must have its image's grid of 52×52×34 voxels, got 52×51×34" in said.out
    manifest = load_manifest(tmp_path / "cache")
    assert [case.name for case in manifest.cases] == ["btcv_0001"]
    assert [name for name, _ in manifest.refused] == ["btcv_0002", "btcv_0003"]


def test_again_only_what_changed_is_prepared(tmp_path, capsys):
    root, cache = made.ircad(tmp_path / "raw"), tmp_path / "cache"
    run("3d-ircadb-01", root, cache)
    first = load_manifest(cache)
    made.ircad(tmp_path / "raw", numbers=(3,))
    capsys.readouterr()
    assert run("3d-ircadb-01", root, cache) == 0
    assert "3 cases in" in (said := capsys.readouterr().out)
    assert "(2 as before)" in said
    assert load_manifest(cache).cases[:2] == first.cases


def test_workers_make_the_same(tmp_path):
    root = made.chaos(tmp_path / "raw")
    one, two = (prepare(dataset="chaos", root=root, out=tmp_path / f"{n}", spacing_mm=(7, 7, 8), workers=n) for n in (0, 2))
    assert one.cases == two.cases
    for case in one.cases:
        assert all(torch.equal(a, b) for a, b in zip(load_case(one, case)[:2], load_case(two, case)[:2], strict=True))

"""From a folder of CTs and a checkpoint to a report: `gpu-synth fit`, `predict`, `evaluate`, as a user types them."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_training import cache, write_scan

from gpu_synth.cli import main
from gpu_synth.grids import values_to_native
from gpu_synth.volumes import save_nifti

__all__ = ["cache"]
PATCH = "--data.patch_vox=[64, 32, 32]"


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    """A checkpoint after two steps, of a window of its own; what it was trained on is not at hand any more."""
    folder = tmp_path_factory.mktemp("trained")
    data = shutil.copytree(cache, folder / "cache")
    options = ["--data.samples_per_epoch=4", "--data.num_workers=0", "--data.window_hu=[-100, 200]", "--trainer.max_epochs=1"]
    options += ["--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder / 'runs'}"]
    assert main(["fit", f"--data.data_dir={data}", PATCH, *options]) == 0
    shutil.rmtree(data)
    return folder / "runs" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture
def annotated(tmp_path):
    """Two CTs with a tumour each, stored right to left in thick slices, and their masks."""
    for n in range(2):
        write_scan(tmp_path, f"case{n}", (0.6, 0.7, 0.8), tumor=True)
        for kind in ("ct", "liver"):
            image = nib.load(tmp_path / kind / f"case{n}.nii.gz")
            data, affine = np.asarray(image.dataobj)[::-1, :, ::2], np.diag([-2.0, 2.0, 4.0, 1.0])
            save_nifti(tmp_path / kind / f"case{n}.nii.gz", data, affine)
    return tmp_path


def test_predict_then_evaluate(trained, annotated, monkeypatch, capsys):
    monkeypatch.chdir(annotated)
    before = set(annotated.iterdir())
    given = [f"--ckpt_path={trained}", "--data.predict_images=ct", "--model.overlap=0", "--trainer.enable_progress_bar=false"]
    assert main(["predict", *given]) == 0
    assert set(annotated.iterdir()) - before == {annotated / "predictions"}
    assert "segmentations in predictions: gpu-synth evaluate" in capsys.readouterr().out
    for n in range(2):
        ct, *written = (nib.load(f"{where}case{n}{end}.nii.gz") for where, end in WRITTEN)
        assert all(image.shape == ct.shape for image in written)
        assert all(np.array_equal(image.affine, ct.affine) for image in written)
        label, likely = (np.asarray(image.dataobj) for image in written)
        assert set(np.unique(label)) <= {0, 1, 2}
        assert 0 <= likely.min() < likely.max() <= 1
        assert likely[label == 2].mean() > likely[label != 2].mean()
    assert main(["evaluate", "--predictions", "predictions", "--references", "liver", "--images", "ct", "--out", "report"]) == 0
    scores = json.loads((annotated / "report" / "scores.json").read_text())
    assert scores["scored"] == 2
    assert len(scores["scores"]["predictions"]["froc"]["sensitivity"]) > 1, "predict left probabilities"
    assert 0 < scores["scores"]["predictions"]["dsc_organ"]["value"] < 1


WRITTEN = (("ct/", ""), ("predictions/", "_seg"), ("predictions/probabilities/", "_seg"))


def test_a_checkpoint_tells_what_predict_needs(trained, annotated, monkeypatch, capsys):
    seen = []
    monkeypatch.chdir(annotated)
    monkeypatch.setattr("gpu_synth.trainers.fit.GpuSynthCLI._run_subcommand", lambda cli, _: seen.append(cli))
    assert main(["predict", f"--ckpt_path={trained}", "--data.predict_images=ct"]) == 0
    data = seen[0].datamodule
    assert (data.spacing_mm, tuple(data.window_hu), tuple(seen[0].model.patch_vox)) == ((2.0, 2.0, 2.0), (-100.0, 200.0), (64, 32, 32))
    assert main(["predict", f"--ckpt_path={trained}", "--data.predict_images=ct", "--data.patch_vox=[64, 64, 32]"]) == 0
    assert tuple(seen[1].model.patch_vox) == (64, 64, 32)
    for option, says in (
        ("--data.window_hu=[-21, 189]", "data.window_hu must be [-100.0, 200.0], as in"),
        ("--data.spacing_mm=[1, 1, 1]", "data.spacing_mm must be [2.0, 2.0, 2.0], as in"),
    ):
        assert main(["predict", f"--ckpt_path={trained}", "--data.predict_images=ct", option]) == 2
        assert says in capsys.readouterr().err


def test_predict_without_what_it_needs_is_refused(trained, annotated, monkeypatch, capsys):
    monkeypatch.chdir(annotated)
    for given in ([], ["--ckpt_path=none.ckpt"]):
        assert main(["predict", "--data.predict_images=ct", *given]) == 2
        assert "ckpt_path must be a checkpoint of gpu-synth fit, got None" in capsys.readouterr().err.replace("none.ckpt", "None")
    assert main(["predict", f"--ckpt_path={trained}"]) == 2
    assert "predict_images must name CT files" in capsys.readouterr().err
    old = torch.load(trained, weights_only=True)
    del old["SynthesisDataModule"]["predict"]
    torch.save(old, "old.ckpt")
    assert main(["predict", "--ckpt_path=old.ckpt", "--data.predict_images=ct", PATCH]) == 2
    assert (
        "data_dir must be a folder that gpu-synth prepare wrote, got None; give --data.data_dir or --data.spacing_mm"
        in capsys.readouterr().err
    )
    save_nifti(annotated / "ct" / "mask.nii.gz", np.ones((9, 9, 9), np.uint8), np.eye(4))
    options = ["--trainer.enable_progress_bar=false", "--trainer.logger=false", "--model.overlap=0"]
    assert main(["predict", f"--ckpt_path={trained}", "--data.predict_images=ct/mask*", *options]) == 2
    assert "mask.nii.gz: must be a CT in HU" in capsys.readouterr().err


def test_values_come_back_onto_the_files_own_grid(tmp_path):
    """A field that is linear in space is the same on every grid."""
    native = np.array([[0, -1.5, 0, 30.0], [2.0, 0, 0, -9.0], [0, 0, 2.5, 4.0], [0, 0, 0, 1.0]])
    save_nifti(tmp_path / "ct.nii.gz", np.zeros((14, 12, 8), np.int16), native)
    ours = np.diag([1.2, 1.1, 1.0, 1.0])
    ours[:3, 3] = [5.0, -15.0, 0.0]
    field = (np.stack(np.meshgrid(*(np.arange(n) for n in (34, 44, 28)), indexing="ij"), -1) @ ours[:3, :3].T + ours[:3, 3]) @ [
        0.01,
        0.02,
        -0.01,
    ]
    out = values_to_native(field.astype(np.float32), ours, tmp_path / "ct.nii.gz")
    expected = (np.stack(np.meshgrid(*(np.arange(n) for n in (14, 12, 8)), indexing="ij"), -1) @ native[:3, :3].T + native[:3, 3]) @ [
        0.01,
        0.02,
        -0.01,
    ]
    np.testing.assert_array_equal(out.affine, native)
    inside = out.data != 0
    assert inside.mean() > 0.9
    np.testing.assert_allclose(out.data[inside], expected[inside], atol=1e-5)

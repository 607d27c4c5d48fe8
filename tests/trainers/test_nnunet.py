"""nnU-Net's whole path with the real package, in the environment that `make setup` makes for it: from an empty folder to a prediction."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_env import PYTHON
from torch.nn.functional import interpolate

from gpu_synth.volumes import read_nifti

ROOT = Path(__file__).parents[2]
TRAINER = "nnUNetTrainerFewSteps"


@pytest.fixture
def environment(tmp_path):
    """What a shell has where nnU-Net is installed, few processes, and a folder of a user's own trainers."""
    if not PYTHON.exists():
        why = f"there is no {PYTHON}: python tests/nnunet_env.py makes it, as make setup does"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    folders = {name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return {
        **os.environ,
        **folders,
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "nnUNet_extTrainer": str(ROOT / "tests" / "nnunet"),
        "nnUNet_tumorSynth": "{preset: liver, prob: 1.0, seed: 3}",
        "DEVICE": "cpu",
        "TRAINER": TRAINER,
    }


def run(folder, environment, *command, **more):
    done = subprocess.run(command, cwd=folder, env={**environment, **more}, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def check(seen, first_uid):
    """Two steps of training, tumours in each and at every scale; then a step of validation, without one."""
    assert [step["training"] for step in seen] == [True, True, False]
    for n, step in enumerate(seen[:2]):
        before, after, (full, *coarser) = step["before"], step["after"], step["after"]["target"]
        assert step["uid"] == (first_uid + 2 * n, first_uid + 2 * n + 2)
        assert not (before["target"][0] == 2).any()
        assert (full == 2).flatten(1).any(1).all()
        assert (before["target"][0] == 1)[full == 2].float().mean() > 0.8, "tumours lie in the organ, which they may push outwards"
        assert coarser, "deep supervision asks for coarser targets"
        for target in coarser:
            assert torch.equal(target, interpolate(full.float(), target.shape[2:], mode="nearest-exact").to(full.dtype))
        assert torch.equal(step["image"], after["image"]), "the network sees what was synthesised"
        assert (step["image"] != before["image"])[full == 2].float().mean() > 0.9
    assert any((target == 2).any() for step in seen[:2] for target in step["after"]["target"][-1:])
    assert torch.equal(seen[2]["image"], seen[2]["before"]["image"])
    assert all(not (target == 2).any() for target in seen[2]["before"]["target"])


def test_from_an_empty_folder_to_a_prediction_and_on(tmp_path, environment):
    """The example as it stands, but for a trainer that keeps what its network saw."""
    told = run(tmp_path, environment, "bash", str(ROOT / "trainers" / "examples" / "nnunet.sh"), EPOCHS="1")
    assert "5 cases in" in told
    assert "WARNING" not in told
    (fold,) = (tmp_path / "nnUNet_results" / "Dataset900_TumorSynth").glob(f"{TRAINER}__*/fold_0")
    check(torch.load(fold / "seen_1.pt"), first_uid=0)

    prediction, scan = read_nifti(tmp_path / "predictions" / "p0.nii.gz"), read_nifti(tmp_path / "scans" / "p0_0000.nii.gz")
    assert prediction.data.shape == scan.data.shape
    assert np.allclose(prediction.affine, scan.affine)
    assert set(np.unique(prediction.data)) <= {0, 1, 2}

    state = torch.load(fold / "checkpoint_final.pth", weights_only=False)["tumor_synth"]
    assert (state["seed"], state["counter"], state["preset"]) == (3, 4, "liver")
    command = ("nnUNetv2_train", "900", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu", "--c")
    here = f"{environment['nnUNet_extTrainer']}{os.pathsep}{ROOT / 'trainers' / 'nnunet'}"
    run(tmp_path, environment, *command, EPOCHS="2", nnUNet_extTrainer=here, nnUNet_tumorSynth="{preset: liver, prob: 1.0, seed: 9}")
    check(torch.load(fold / "seen_2.pt"), first_uid=4)
    assert torch.load(fold / "checkpoint_final.pth", weights_only=False)["tumor_synth"] == {**state, "counter": 8}


def test_its_parts(tmp_path, environment):
    """Tests that import nnU-Net, in its environment."""
    command = (
        str(PYTHON),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        str(Path(__file__).with_name("nnunet_parts.py")),
    )
    assert " passed" in run(tmp_path, environment, *command, "--rootdir", str(ROOT))


def test_without_nnunet_the_error_names_the_extra(tmp_path):
    if find_spec("nnunetv2"):
        pytest.skip("nnU-Net is installed here")
    folders = {name: str(tmp_path) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    for command in (
        ("-c", "import gpu_synth.trainers.nnunet.nnUNetTrainerTumorSynth"),
        ("-m", "gpu_synth.cli", "nnunet-fingerprint", "--dataset", "900"),
    ):
        done = subprocess.run([sys.executable, *command], env={**os.environ, **folders}, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "pip install 'gpu-synth[nnunet]'" in done.stderr.splitlines()[-1]

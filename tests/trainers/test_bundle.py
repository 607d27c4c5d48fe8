"""A MONAI bundle that knows nothing of tumours, and the fragment that brings them in."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted import SPACING_MM, scans
from monai.bundle import ConfigParser, ConfigWorkflow

from gpu_synth import TumorSynthesizer
from gpu_synth.volumes import save_nifti

FRAGMENT = str(files("gpu_synth.trainers") / "configs" / "monai_bundle.yaml")
HEAD = """
import torch
class Head(torch.nn.Conv3d):
    seen, validated = [], []
    def forward(self, image):
        (self.seen if self.training else self.validated).append(torch.as_tensor(image).detach().clone().as_subclass(torch.Tensor))
        return super().forward(image)
"""
TRANSFORMS = [
    {"_target_": "LoadImaged", "keys": ["image", "label"]},
    {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -175, "a_max": 250, "b_min": 0, "b_max": 1, "clip": True},
]


def loader(cases: str, shuffle: bool) -> dict:
    data = {"_target_": "Dataset", "data": cases, "transform": {"_target_": "Compose", "transforms": TRANSFORMS}}
    return {"_target_": "DataLoader", "dataset": data, "batch_size": 1, "shuffle": shuffle, "num_workers": 0}


TRAIN = {  # laid out as those of the Model Zoo are
    "imports": ["$import glob"],
    "bundle_root": ".",
    "device": "$torch.device('cpu')",
    "images": "$sorted(glob.glob(@bundle_root + '/data/*_ct.nii.gz'))",
    "cases": "$[{'image': i, 'label': i.replace('_ct', '_liver')} for i in @images]",
    "network": {"_target_": "scripts.head.Head", "in_channels": 1, "out_channels": 3, "kernel_size": 1},
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1},
    "train": {
        "handlers": [
            {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "interval": 1},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "$@bundle_root + '/models'",
                "save_dict": {"model": "@network"},
                "save_final": True,
            },
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": 2,
            "device": "@device",
            "train_data_loader": loader("$@cases[:2]", False),
            "network": "@network",
            "loss_function": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
            "optimizer": "@optimizer",
            "train_handlers": "@train#handlers",
        },
    },
    "validate": {
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": loader("$@cases[2:]", False),
            "network": "@network",
        }
    },
    "initialize": ["$monai.utils.set_determinism(0)"],
    "run": ["$@train#trainer.run()"],
}


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Path:
    """Somebody's bundle: three scans, a configuration, a network of its own."""
    for folder in ("configs", "data", "scripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps(TRAIN))
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    (tmp_path / "scripts" / "__init__.py").touch()
    (tmp_path / "scripts" / "head.py").write_text(HEAD)
    affine = np.diag([*SPACING_MM, 1.0])
    for n, (image, label) in enumerate(zip(*scans(3), strict=True)):
        save_nifti(tmp_path / "data" / f"{n}_ct.nii.gz", image[0].round().to(torch.int16).numpy(), affine)
        save_nifti(tmp_path / "data" / f"{n}_liver.nii.gz", label[0].numpy(), affine)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("scripts", "scripts.head"):
        sys.modules.pop(name, None)


def run(bundle: Path, *configs: str, **override):
    """Run it in this process; what its network saw comes back."""
    names = [str(bundle / "configs" / "train.json"), *configs]
    workflow = ConfigWorkflow(names, str(bundle / "configs" / "metadata.json"), workflow_type="train", bundle_root=str(bundle), **override)
    workflow.initialize()
    head = workflow.parser.get_parsed_content("network")
    type(head).seen, type(head).validated = [], []
    workflow.run()
    return head, workflow.parser


PROB = {"synthesizer#prob": 1.0}


def test_the_fragment_brings_tumours_into_a_bundle(bundle):
    before, _ = run(bundle)
    healthy = [*before.seen]
    after, parser = run(bundle, FRAGMENT, **PROB)
    assert len(after.seen) == len(healthy) == 4
    assert all(((a - b).abs() > 0.02).sum() > 10 for a, b in zip(after.seen, healthy, strict=True)), "training has tumours"
    assert all(torch.equal(a, b) for a, b in zip(after.validated, before.validated[-2:], strict=True)), "validation has none"
    labels = parser.get_parsed_content("train#trainer").state.output[0]["label"]
    assert (labels == 2).any()
    assert parser.get_parsed_content("synthesizer").get_extra_state()["counter"] == 4


def test_a_bundle_goes_on_with_the_tumours_to_come(bundle, tmp_path_factory):
    whole, _ = run(bundle, FRAGMENT, **PROB)
    (state,) = (bundle / "models").glob("synthesizer_*.pt")
    state.unlink()
    seen = [*whole.seen]
    first, _ = run(bundle, FRAGMENT, **PROB, **{"train#trainer#max_epochs": 1})
    seen_first = [*first.seen]
    second, parser = run(bundle, FRAGMENT, **PROB, **{"train#trainer#max_epochs": 1, "synthesizer#seed": 77})
    assert all(torch.equal(a, b) for a, b in zip(seen, [*seen_first, *second.seen], strict=True))
    assert parser.get_parsed_content("synthesizer").seed == 0


def test_every_process_of_several_goes_on(bundle):
    """The Model Zoo's multi_gpu_train.json gives all but the first process the first handlers only, and an `initialize` of its own."""
    other = {"train#trainer#train_handlers": "$@train#handlers[:-2]", "initialize": ["$monai.utils.set_determinism(0)"]}
    (bundle / "configs" / "multi_gpu_train.json").write_text(json.dumps(other))
    whole, _ = run(bundle, FRAGMENT, **PROB)
    seen = [*whole.seen]
    (bundle / "models").joinpath("synthesizer_synthesizer_epoch=2.pt").unlink()
    run(bundle, FRAGMENT, **PROB, **{"train#trainer#max_epochs": 1})
    second, _ = run(bundle, str(bundle / "configs" / "multi_gpu_train.json"), FRAGMENT, **PROB, **{"train#trainer#max_epochs": 1})
    assert not second.validated, "its handlers are as the bundle says"
    assert all(torch.equal(a, b) for a, b in zip(seen[2:], second.seen, strict=True))


def test_the_command_that_the_fragment_names(bundle):
    """As a user would: from the bundle's folder, the fragment copied into it."""
    (bundle / "monai_bundle.yaml").write_text(Path(FRAGMENT).read_text())
    config = "['configs/train.json', 'monai_bundle.yaml']"
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--bundle_root",
        ".",
        "--config_file",
        config,
        "--meta_file",
        "configs/metadata.json",
    ]
    path = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=bundle, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [file.name for file in (bundle / "models").glob("synthesizer_*.pt")] == ["synthesizer_synthesizer_epoch=2.pt"]


def test_synthesizer_and_presets_are_targets():
    parser = ConfigParser(
        {
            "synthesizer": {"_target_": "gpu_synth.TumorSynthesizer", "preset": "pancreas", "seed": 5, "satellite_prob": 0.0},
            "preset": {"_target_": "gpu_synth.presets.get", "name": "liver", "cirrhosis_prob": 1.0},
            "digest": "$@preset.digest()",
            "transform": {
                "_target_": "gpu_synth.trainers.monai.RandTumord",
                "keys": ["image", "label"],
                "synthesizer": "@synthesizer",
                "intensity": {"_target_": "gpu_synth.trainers.intensity.ZScore", "mean_hu": 80, "std_hu": 40},
            },
        }
    )
    synth = parser.get_parsed_content("synthesizer")
    assert isinstance(synth, TumorSynthesizer)
    assert (synth.preset.name, synth.seed) == ("pancreas", 5)
    assert parser.get_parsed_content("transform").step.synthesizer is synth
    assert parser.get_parsed_content("digest") == parser.get_parsed_content("preset").digest()

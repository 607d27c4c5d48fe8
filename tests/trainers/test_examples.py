"""The examples run, as they stand, from an empty folder; and the page names each."""

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from adapted import SPACING_MM, scans

from gpu_synth.trainers.intensity import Window

ALL = sorted(Path(str(files("gpu_synth.trainers"))).glob("examples/*.*"))
EXAMPLES = [path for path in ALL if path.suffix == ".py"]  # nnunet.sh: test_nnunet.py
VALIDATES = {"accelerate_loop", "bare_loop", "lightning_module"}
PAGE = Path(__file__).parents[2] / "trainers" / "README.md"
TUMOUR = re.compile(r"^(?!validation).*?(\d+) (?:voxels of tumour|lesions made)", re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_trains_on_tumours(example, tmp_path):
    paths = os.pathsep.join(path for path in sys.path if path)
    command, env = [sys.executable, str(example)], {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sum(int(count) for count in TUMOUR.findall(done.stdout)) > 20, done.stdout
    validation = [line for line in done.stdout.splitlines() if line.startswith("validation")]
    assert bool(validation) == (example.stem in VALIDATES), done.stdout
    assert all(line.endswith(" 0 voxels of tumour") for line in validation), done.stdout
    assert not re.search("must lead to HU|gpu_synth", done.stderr), done.stderr


@pytest.mark.parametrize("example", ALL, ids=[path.stem for path in ALL])
def test_an_example_is_short_and_named_like_no_package(example):
    """Its folder comes first on the import path when it is run: a file `monai.py` there would be imported for MONAI."""
    assert len(example.read_text().splitlines()) <= 40
    assert example.stem not in {*packages_distributions(), *sys.stdlib_module_names}
    assert example.name in PAGE.read_text()


def test_the_guide_runs_and_is_short():
    (guide,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in guide.splitlines() if line]) <= 15
    window, seen, saved = Window(-175.0, 250.0), [], []
    scope = {
        "train_loader": [{"image": window.from_hu(scans().image), "label": scans().label}] * 2,
        "device": "cpu",
        "network": torch.nn.Conv3d(1, 3, 1),
        "loss_of": lambda output, label: seen.append(label) or torch.nn.functional.cross_entropy(output, label[:, 0].long()),
        "train_on": lambda loss: loss.backward(),
        "save": saved.append,
    }
    exec(compile(guide.replace("(1.0, 1.0, 1.0)", str(SPACING_MM)), str(PAGE), "exec"), scope)
    assert len(seen) == 2
    assert all((label == 2).any() for label in seen)
    assert saved[0]["synth"]["_extra_state"]["counter"] == 2 * len(scans().image)


def test_files_and_names_of_the_page_exist():
    text = PAGE.read_text()
    assert all((PAGE.parent / name).is_file() for name in re.findall(r"\]\(([^)#]+)\)", text))
    assert {f"trainers/examples/{path.name}" for path in ALL} <= {
        f"trainers/{name}" for name in re.findall(r"\]\((examples/[^)]+)\)", text)
    }
    project = (PAGE.parents[1] / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in re.findall(r"gpu-synth\[(\w+)\]", text))

"""The examples run, as they stand, from an empty folder; and the page names each."""

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(str(files("gpu_synth.trainers"))).glob("examples/*.py"))
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
    assert all(line.endswith(" 0 voxels of tumour") for line in validation), done.stdout
    assert not re.search("must lead to HU|gpu_synth", done.stderr), done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_is_short_and_named_like_no_package(example):
    """Its folder comes first on the import path when it is run: a file `monai.py` there would be imported for MONAI."""
    assert len(example.read_text().splitlines()) <= 40
    assert example.stem not in {*packages_distributions(), *sys.stdlib_module_names}
    assert example.name in PAGE.read_text()

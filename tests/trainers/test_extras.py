"""An extra brings what its adapter needs and nothing else; without it, the error names it."""

import ast
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")
ROOM = Path(str(files("gpu_synth.trainers")))
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {  # where names differ, or a requirement brings another
    "lightning": {"lightning", "lightning_utilities", "torchmetrics"},
    "nnunetv2": {"nnunetv2", "batchgeneratorsv2"},
    "pytorch-ignite": {"ignite"},
    "pyyaml": {"yaml"},
}
NEEDS = {  # extra: files for which it is there
    "monai": ("monai.py", "examples/monai_engine.py"),
    "torchio": ("torchio.py", "examples/torchio_subjects.py"),
    "accelerate": ("examples/accelerate_loop.py",),
    "nnunet": ("nnunet/nnUNetTrainerTumorSynth.py", "nnunet_fingerprint.py"),
}
UNSEEN = {"fire", "ignite"}  # MONAI imports them: for its command, and for its engines


def imports_of(requirements: list[str]) -> set[str]:
    """Top-level names that requirements bring."""
    names = [re.match(r"[\w-]+", requirement).group().lower() for requirement in requirements]
    return {module for name in names for module in IMPORTED_AS.get(name, {name.replace("-", "_")})}


def foreign(path: Path) -> set[str]:
    """Top-level names of other projects that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "gpu_synth"}


BASE = imports_of(PROJECT["dependencies"])


@pytest.mark.parametrize("extra", NEEDS)
def test_an_extra_brings_what_its_files_import_and_nothing_else(extra):
    brought = imports_of(PROJECT["optional-dependencies"][extra])
    asked = set().union(*(foreign(ROOM / name) for name in NEEDS[extra]))
    assert not brought & BASE, "it is there without the extra"
    assert asked <= BASE | brought
    assert brought <= asked | UNSEEN


def test_the_other_adapters_need_no_extra():
    special = {ROOM / name for names in NEEDS.values() for name in names}
    for path in {*ROOM.glob("*.py"), *ROOM.glob("examples/*.py")} - special:
        assert foreign(path) <= BASE, path.name


@pytest.mark.parametrize(
    ("module", "lacks", "extra"),
    [
        ("torchio", "torchio", "torchio"),
        ("examples.torchio_subjects", "torchio", "torchio"),
        ("examples.accelerate_loop", "accelerate", "accelerate"),
        ("examples.monai_engine", "ignite", "monai"),
    ],
)
def test_without_it_the_error_names_it(module, lacks, extra, tmp_path):
    """Of the adapter, and of the example that somebody tries first; nnU-Net's: test_nnunet.py."""
    code = f"import sys, runpy; sys.modules[{lacks!r}] = None; runpy.run_module('gpu_synth.trainers.{module}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert re.fullmatch(rf"ImportError: .* must be installed.*, got .*; pip install 'gpu-synth\[{extra}\]'", done.stderr.splitlines()[-1])

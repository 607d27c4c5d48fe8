"""What is installed is what the tree holds; importing it costs nothing; imports point one way; files stay small."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gpu_synth

ROOT = Path(__file__).parents[1]
ROOMS = {
    "gpu_synth": "gpu_synth",
    "kernels": "gpu_synth.kernels",
    "trainers": "gpu_synth.trainers",
    "bench": "gpu_synth.bench",
}  # folder: name
SHIPPED = {".py", ".sh", ".yaml", ".cu", ".cuh", ".typed"}
HEAVY = ("torch", "numpy", "scipy", "cupy", "lightning", "monai", "matplotlib", "jaxtyping")


def sources(folder: str, root: Path = ROOT) -> list[Path]:
    """Files of a room that ship; rglob does not follow the links from gpu_synth/ to the other rooms."""
    return [path for path in sorted((root / folder).rglob("*")) if path.suffix in SHIPPED]


PYTHON = [path for folder in ROOMS for path in sources(folder) if path.suffix == ".py"]


# ---- the wheel --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A copy of what the project holds, so that the build leaves nothing in the tree, and the wheel built from it."""
    pytest.importorskip("setuptools", reason="building a wheel without a network needs setuptools in the environment")
    folder = tmp_path_factory.mktemp("wheel")
    kept = [*(path for room in ROOMS for path in sources(room)), *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))]
    for path in [*kept, *(ROOT / "tests").glob("*.py")]:
        copy = folder / "tree" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for room in ("kernels", "trainers", "bench"):
        (folder / "tree" / "gpu_synth" / room).symlink_to(f"../{room}")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder, folder / "tree"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder / "tree", zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_tree(wheel):
    tree, archive = wheel
    expected = {
        f"{name.replace('.', '/')}/{path.relative_to(tree / folder)}": path.read_bytes()
        for folder, name in ROOMS.items()
        for path in sources(folder, tree)
    }
    held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert held.keys() == expected.keys()
    assert held == expected
    assert {"gpu_synth/py.typed", "gpu_synth/kernels/rng.py", "gpu_synth/trainers/configs/liver.yaml"} <= held.keys()


def test_the_wheel_brings_the_command(wheel):
    _, archive = wheel
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "gpu-synth = gpu_synth.cli:main" in archive.read(entry_points).decode()


WHERE = "import gpu_synth; from gpu_synth.kernels import _launch; print(gpu_synth.__file__, len(_launch.sources()))"


def test_the_installed_command_works_in_an_empty_folder(wheel, tmp_path):
    _, archive = wheel
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", installed, archive.filename]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*command):
        out = subprocess.run(
            [sys.executable, *command], cwd=empty, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert "Traceback" not in out.stderr
        return out

    where, families = run("-c", WHERE).stdout.split()
    assert where.startswith(str(installed))
    assert int(families) == len(list((ROOT / "kernels").glob("*.cu")))
    command = str(installed / "bin" / "gpu-synth")
    assert run(command, "--version").stdout == f"gpu-synth {gpu_synth.__version__}\n"
    doctor = run(command, "doctor", "--json")
    assert (doctor.returncode, json.loads(doctor.stdout)["machine"]["gpu-synth"]) == (0, gpu_synth.__version__)
    config = run(command, "fit", "--config", "liver.yaml", "--print_config")
    assert (config.returncode, "preset: liver" in config.stdout) == (0, True), "the configurations are in it"
    assert run(command, "preview", "--out", "pictures/phantom.png", "--spacing_mm", "6,6,6").stdout == "wrote pictures/phantom.png\n"
    assert [path.name for path in empty.rglob("*")] == ["pictures", "phantom.png"]


def test_the_version_is_the_projects():
    assert f'\nversion = "{gpu_synth.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


# ---- importing it -----------------------------------------------------------------------------------------------------------------------

TIMED_IMPORT = f"""
import sys, time
start = time.perf_counter()
import gpu_synth
seconds = time.perf_counter() - start
dir(gpu_synth)
print(seconds, *[name for name in {HEAVY} if name in sys.modules])
"""


def test_importing_is_quick_and_loads_nothing_heavy():
    runs = [
        subprocess.run([sys.executable, "-c", TIMED_IMPORT], check=True, capture_output=True, text=True).stdout.split() for _ in range(3)
    ]
    assert all(run[1:] == [] for run in runs), runs
    assert min(float(run[0]) for run in runs) < 0.3


def test_public_names_are_there_and_others_are_named():
    assert set(gpu_synth.__all__) <= set(dir(gpu_synth))
    for name in gpu_synth.__all__:
        assert getattr(gpu_synth, name).__name__.endswith(name)
    with pytest.raises(AttributeError, match=r"has no attribute 'TumourSynthesizer'; public names: .*TumorSynthesizer"):
        _ = gpu_synth.TumourSynthesizer


# ---- the house --------------------------------------------------------------------------------------------------------------------------


def imported(path: Path) -> set[str]:
    """Full names of all that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path, *rooms: str) -> list[str]:
    return [name for name in imported(path) for room in rooms if f"{name}.".startswith(f"{room}.")]


def test_imports_point_one_way():
    for path in PYTHON:
        room, where = path.relative_to(ROOT).parts[0], str(path.relative_to(ROOT))
        if room == "kernels":
            assert ours(path, "gpu_synth") == ours(path, "gpu_synth.kernels"), f"kernels know tensors, not the engine: {where}"
        if room == "gpu_synth" and path.name != "cli.py":
            assert not ours(path, "gpu_synth.trainers", "gpu_synth.bench"), f"only cli.py may reach everywhere: {where}"
        if room in ("kernels", "gpu_synth") and path.name != "cli.py":
            assert not ours(path, "lightning"), f"the engine knows no trainer: {where}"
        if path.name != "_launch.py":
            assert not ours(path, "cupy"), f"only _launch.py touches CuPy: {where}"
        assert not ours(path, "kernels", "trainers", "bench", "tests"), f"rooms are imported from gpu_synth: {where}"


def test_files_stay_small():
    limits = {path: 150 if path.name == "synthesizer.py" else 300 for path in PYTHON}
    limits |= dict.fromkeys((ROOT / "tests").rglob("*.py"), 400)
    long = {path.relative_to(ROOT): n for path, limit in limits.items() if (n := len(path.read_text().splitlines())) > limit}
    assert not long


def test_every_kernel_family_has_its_test_and_its_benchmark():
    from gpu_synth.bench.registry import OPERATIONS

    families = {path.stem for path in sources("kernels") if path.suffix == ".py" and not path.stem.startswith("_")}
    assert {f"test_{family}.py" for family in families} <= {path.name for path in (ROOT / "tests" / "kernels").glob("*.py")}
    assert families <= {operation.name for operation in OPERATIONS}

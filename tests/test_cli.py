"""The command: help, what it says to mistakes, and that options reach the engine."""

import subprocess
import sys
import time

import pytest
import yaml
from tiny_training import cache

from gpu_synth import __version__
from gpu_synth.cli import COMMANDS, main

__all__ = ["cache"]


def run(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "gpu_synth.cli", *arguments], capture_output=True, text=True, check=False, **options)


def test_help_lists_every_subcommand_and_is_quick():
    begin = time.perf_counter()
    out = run("--help")
    assert time.perf_counter() - begin < 2.0
    assert out.returncode == 0
    assert all(f"\n  {name} " in out.stdout for name in COMMANDS)
    assert run("--version").stdout.strip() == f"gpu-synth {__version__}"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("validate", "test")])
def test_every_subcommand_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


PREVIEW = ["preview", "--image", "/nowhere.nii", "--label", "/nowhere.nii", "--out", "x.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "subcommand must be one of"),
        (["prepare", "--out", "x", "--images", "/nowhere", "--labels", "/nowhere"], "images must be a folder"),
        ([*PREVIEW, "--preset", "livr"], "did you mean 'liver-hu2022'"),
        (PREVIEW, "/nowhere.nii"),
        (["fit", "--config", "liver.yaml", "--data.data_dir", "/nowhere"], "/nowhere"),
        (["bench", "--names", "[shapes]"], "names must be among"),
    ],
    ids=["subcommand", "folder", "preset", "file", "cache", "operation"],
)
def test_a_mistake_is_one_line_that_names_it(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpu-synth: error:")]
    assert len(error) == 1
    assert says in error[0]


def test_packaged_configs_are_found_by_name_and_figures_overridden(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("liver.yaml", "demo.yaml"):
        options = ["--data.data_dir", str(cache), "--data.overrides.contrast_hu", "[-60, -50]", "--trainer.max_epochs", "1"]
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", name, *options, "--print_config"])
        assert stop.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["data"]["overrides"]["contrast_hu"] == [-60, -50]
        assert config["data"]["data_dir"] == str(cache)
        assert config["trainer"]["max_epochs"] == 1


def test_a_file_of_the_users_own_wins_over_the_packaged_one(tmp_path, monkeypatch):
    from gpu_synth.trainers.fit import with_packaged_configs

    monkeypatch.chdir(tmp_path)
    assert with_packaged_configs(["fit", "--config", "liver.yaml"])[2].endswith("configs/liver.yaml")
    (tmp_path / "liver.yaml").write_text("trainer: {max_epochs: 7}")
    assert with_packaged_configs(["fit", "--config=liver.yaml"]) == ["fit", "--config=liver.yaml"]
    assert with_packaged_configs(["fit", "--config", "mine.yaml"]) == ["fit", "--config", "mine.yaml"]


def test_fit_then_resume_from_the_command_line(cache, tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    options = {"data.data_dir": cache, "data.patch_vox": [64, 32, 32], "data.samples_per_epoch": 1, "data.batch_size": 1}
    options |= {"data.num_workers": 0, "data.overrides.contrast_hu": [-145, -100], "model.overlap": 0, "trainer.default_root_dir": "runs"}
    options |= {"trainer.check_val_every_n_epoch": 2, "trainer.enable_progress_bar": "false"}
    fit = ["fit", "--config", "liver.yaml", *(f"--{name}={value}" for name, value in options.items())]
    assert main([*fit, "--trainer.max_epochs=1"]) == 0
    run_folder = tmp_path / "runs" / "version_0"
    assert {path.name for path in run_folder.iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints", "synthesised"}
    assert any(path.name.startswith("events.out.tfevents") for path in run_folder.iterdir())
    assert "synthesis/share_of_step_time" in (run_folder / "metrics.csv").read_text()
    last = run_folder / "checkpoints" / "last.ckpt"
    assert main([*fit, "--trainer.max_epochs=2", f"--ckpt_path={last}"]) == 0
    rows = (tmp_path / "runs" / "version_1" / "metrics.csv").read_text()
    assert "val/dsc_tumor" in rows
    assert "\n0," not in rows, "the first epoch is not trained twice"

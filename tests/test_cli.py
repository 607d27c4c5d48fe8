"""The command: help, what it says to mistakes, and that options reach the engine."""

import re
import subprocess
import sys
import time

import pytest
import torch
import yaml
from ct_files import write_case
from tiny_training import cache

from gpu_synth import __version__
from gpu_synth.cli import COMMANDS, main
from gpu_synth.manifest import load_manifest

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
        ([*PREVIEW, "--preset", "livr"], "did you mean 'liver'"),
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


@pytest.mark.parametrize(
    "options",
    [
        ["--spacing_mm", "2,2,2.5", "--organ_labels", "1", "--tumor_labels=2,8"],
        ["--spacing_mm=2,2,2.5", "--organ_labels=1", "--tumor_labels", "[2, 8]"],
        ["--spacing_mm", "[2, 2, 2.5]", "--organ_labels", "[1]", "--tumor_labels", "2, 8"],
    ],
    ids=["plain", "equals", "brackets"],
)
def test_several_values_are_given_with_commas_or_in_brackets(options, tmp_path):
    write_case(tmp_path)
    assert main(["prepare", "--images", f"{tmp_path}/images", "--labels", f"{tmp_path}/labels", "--out", f"{tmp_path}/out", *options]) == 0
    assert load_manifest(tmp_path / "out").settings == {"spacing_mm": [2.0, 2.0, 2.5], "organ_labels": [1], "tumor_labels": [2, 8]}


def test_a_mend_that_a_message_names_works(tmp_path, capsys):
    write_case(tmp_path)
    prepare = ["prepare", "--images", f"{tmp_path}/images", "--labels", f"{tmp_path}/labels", "--out", f"{tmp_path}/out"]
    assert main([*prepare, "--organ_labels", "5"]) == 1
    mend = re.search(r"--organ_labels \d+", capsys.readouterr().out).group().split()
    assert main([*prepare, *mend]) == 0
    preview = ["preview", "--image", f"{tmp_path}/images/a.nii.gz", "--label", f"{tmp_path}/labels/a.nii.gz"]
    assert main([*preview, "--out", f"{tmp_path}/new/a.png", "--spacing_mm", "3,3,3", "--window_hu", "-100,200"]) == 0
    assert (tmp_path / "new" / "a.png").is_file()


def test_what_a_user_cannot_mend_keeps_its_traceback(cache, tmp_path, monkeypatch):
    """A wrong argument to somebody else's function, and any error once training runs, are bugs: one line would hide where."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpu_synth.trainers.fit.train", lambda _: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["fit"])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    options = ["--data.patch_vox=[64, 32, 32]", "--data.num_workers=0", "--trainer.limit_val_batches=0", "--trainer.max_epochs=1"]
    fit = ["fit", f"--data.data_dir={cache}", *options, "--trainer.enable_progress_bar=false"]
    check = "gpu_synth.trainers.data.SynthesisDataModule.train_dataloader"

    def refuse(*_):
        exec(compile("raise ValueError('a check of ours')", "x", "exec"), {"__name__": "gpu_synth.checks"})

    with monkeypatch.context() as before:
        before.setattr(check, refuse)
        assert main(fit) == 2
    monkeypatch.setattr("gpu_synth.synthesizer.TumorSynthesizer.plan", refuse)
    with pytest.raises(ValueError, match="a check of ours"):
        main(fit)


def test_packaged_configs_are_found_by_name_and_figures_overridden(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("liver.yaml", "demo.yaml"):
        options = ["--data.data_dir", str(cache), "--data.overrides.mass_effect", "[20, 30]", "--trainer.max_epochs", "1"]
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", name, *options, "--print_config"])
        assert stop.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["data"]["overrides"]["mass_effect"] == [20, 30]
        assert config["data"]["data_dir"] == str(cache)
        assert config["trainer"]["max_epochs"] == 1


def test_a_file_of_the_users_own_wins_over_the_packaged_one(tmp_path, monkeypatch):
    from gpu_synth.trainers.fit import with_packaged_configs

    monkeypatch.chdir(tmp_path)
    assert with_packaged_configs(["fit", "--config", "liver.yaml"])[2].endswith("configs/liver.yaml")
    (tmp_path / "liver.yaml").write_text("trainer: {max_epochs: 7}")
    assert with_packaged_configs(["fit", "--config=liver.yaml"]) == ["fit", "--config=liver.yaml"]
    assert with_packaged_configs(["fit", "--config", "mine.yaml"]) == ["fit", "--config", "mine.yaml"]


def test_a_checkpoint_tells_the_networks_size_and_nothing_else(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stored = {"size": "small", "overlap": 0.75, "predict_dir": "theirs", "lr": 1.0, "patch_vox": [64, 64, 64]}
    torch.save({"hyper_parameters": stored}, "a.ckpt")
    seen = []
    monkeypatch.setattr("gpu_synth.trainers.fit.GpuSynthCLI.instantiate_classes", lambda cli: seen.append(cli.config.predict.model))
    monkeypatch.setattr("gpu_synth.trainers.fit.GpuSynthCLI._run_subcommand", lambda *_: None)
    predict = ["predict", f"--data.data_dir={cache}", "--data.patch_vox=[64, 32, 32]", "--ckpt_path=a.ckpt"]
    for config in ([], ["--config", "liver.yaml"]):
        given = ["predict", *config, *predict[1:], "--model.overlap=0.25", "--model.predict_dir=ours"]
        assert main(given) == 0
        model = seen.pop()
        assert (model.size, model.overlap, model.predict_dir, model.lr) == ("small", 0.25, "ours", 4e-4)
        assert list(model.patch_vox) == [64, 32, 32]
    assert main([*predict, "--model.size=small"]) == 0
    assert main([*predict, "--model.size=tiny"]) == 2
    assert "model.size must be 'small', as in a.ckpt, got 'tiny'; leave it out" in capsys.readouterr().err


def test_fit_then_resume_from_the_command_line(cache, tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    options = {"data.data_dir": cache, "data.patch_vox": [64, 32, 32], "data.samples_per_epoch": 1, "data.batch_size": 1}
    options |= {"data.num_workers": 0, "data.overrides.cnr_floor": 3.0, "model.overlap": 0, "trainer.default_root_dir": "runs"}
    options |= {"trainer.check_val_every_n_epoch": 2, "trainer.enable_progress_bar": "false"}
    fit = ["fit", "--config", "liver.yaml", *(f"--{name}={value}" for name, value in options.items())]
    assert main([*fit, "--trainer.max_epochs=1"]) == 0
    run_folder = tmp_path / "runs" / "version_0"
    assert {path.name for path in run_folder.iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints", "synthesised"}
    assert any(path.name.startswith("events.out.tfevents") for path in run_folder.iterdir())
    assert "synthesis/share_of_step_time" in (run_folder / "metrics.csv").read_text()
    assert sorted(path.name for path in (run_folder / "checkpoints").iterdir()) == ["last.ckpt"], "saved without a validation"
    last = run_folder / "checkpoints" / "last.ckpt"
    assert main([*fit, "--trainer.max_epochs=2", f"--ckpt_path={last}"]) == 0
    rows = (tmp_path / "runs" / "version_1" / "metrics.csv").read_text()
    assert "val/dsc_tumor" in rows
    assert "\n0," not in rows, "the first epoch is not trained twice"
    assert sorted(path.name for path in (tmp_path / "runs" / "version_1" / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]

"""The command: help, what it says to mistakes, and that options reach the engine."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import yaml
from ct_files import organ, write, write_case
from tiny_training import cache

from gpu_synth import __version__, presets
from gpu_synth.cli import COMMANDS, main
from gpu_synth.exits import Exit
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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "usage" in told
    assert f"example:\n  gpu-synth {name}" in told


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


# ---- how it ends ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fit(cache, tmp_path, monkeypatch):
    """A training of one step in an empty folder; and a folder for what is kept of failures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = ["--data.patch_vox=[64, 32, 32]", "--data.num_workers=0", "--trainer.limit_val_batches=0", "--trainer.max_epochs=1"]
    return ["fit", f"--data.data_dir={cache}", *options, "--trainer.enable_progress_bar=false"]


def refuse(*_):
    exec(compile("raise ValueError('a check of ours')", "x", "exec"), {"__name__": "gpu_synth.checks"})


def test_what_a_user_cannot_mend_is_a_line_with_a_code_of_its_own_and_keeps_its_traceback(fit, tmp_path, monkeypatch, capsys):
    """A wrong argument to somebody else's function, and any error once training runs, are no mistakes of the user's."""
    check = "gpu_synth.trainers.data.SynthesisDataModule.train_dataloader"
    with monkeypatch.context() as before:
        before.setattr(check, refuse)
        assert main(fit) == Exit.MISTAKE
    capsys.readouterr()
    monkeypatch.setattr("gpu_synth.synthesizer.TumorSynthesizer.plan", refuse)
    assert main(fit) == Exit.FAILED
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpu-synth: failed: ")]
    assert "ValueError: a check of ours (gpu_synth." in line, "where it came from"
    kept = re.search(r"traceback in (\S+), or here with --debug", line)[1]
    assert "Traceback (most recent call last)" in Path(kept).read_text()
    assert "a check of ours" in Path(kept).read_text()


@pytest.mark.parametrize("arguments", [["--debug", "fit"], ["fit", "--debug"]], ids=["before", "after"])
def test_debug_shows_the_traceback_of_a_bug_and_of_a_mistake(arguments, fit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gpu_synth.trainers.fit.train", lambda *_, **__: int("x"))
    assert main(arguments) == Exit.FAILED
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    said = r"gpu-synth: failed: ValueError: invalid literal for int\(\) with base 10: 'x' \(gpu_synth.cli, line \d+\)"
    assert re.fullmatch(said, error.splitlines()[-1])
    assert not list(tmp_path.glob("gpu-synth-*.log")), "it is on the screen"
    monkeypatch.setattr("gpu_synth.trainers.fit.train", lambda *_, **__: refuse())
    assert main(arguments) == Exit.MISTAKE
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.splitlines()[-1] == "gpu-synth: error: a check of ours"


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpu_synth.trainers.fit.train", interrupt)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "gpu-synth: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [(["--help"], ""), (["--help"], "1"), (["prepare", "--help"], ""), (["doctor", "--help"], ""), (["doctor"], ""), (["doctor"], "1")],
    ids=str,
)
def test_a_reader_that_goes_is_no_error(arguments, unbuffered):
    command = [sys.executable, "-m", "gpu_synth.cli", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(), error) == (141, "")


def test_exit_codes_are_told_in_one_place():
    told = run("--help").stdout
    assert all(re.search(rf"^  {code:<5}\S", told, re.MULTILINE) for code in Exit)


# ---- for programs -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "doctor"])
def test_the_examples_of_its_help_are_options_that_it_has(name, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line.strip() for line in inspect.getdoc(COMMANDS[name]).splitlines()[1:] if line.strip()]
    assert lines
    for line in lines:
        program, command, *options = shlex.split(line)
        assert (program, command) == ("gpu-synth", name)
        with pytest.raises(SystemExit) as stop:
            main([command, *options, "--print_config"])
        assert stop.value.code == 0, capsys.readouterr().err


def test_json_is_alone_on_stdout(tmp_path, capfd):
    write_case(tmp_path)
    write(tmp_path / "predicted" / "a.nii.gz", 2 * organ())
    folders = {name: f"{tmp_path}/{name}" for name in ("images", "labels", "predicted", "cache", "report")}
    prepare = ["prepare", "--images", folders["images"], "--labels", folders["labels"], "--out", folders["cache"]]
    assert main([*prepare, "--json"]) == 0
    out = capfd.readouterr()
    assert json.loads(out.out) == json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert "1 cases in" in out.err
    assert main([*prepare, "--json", "--organ_labels", "5"]) == Exit.PARTLY
    assert json.loads(capfd.readouterr().out)["refused"][0][0] == "a", "the code does not hang on it"
    evaluate = ["evaluate", "--predictions", folders["predicted"], "--references", folders["labels"], "--out", folders["report"]]
    assert main(["--debug", *evaluate, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads((tmp_path / "report" / "scores.json").read_text())
    assert main(["bench", "--names", "rng", "--seconds", "0", "--tests=false", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["rows"][0]["name"] == "rng"
    assert main([*prepare, "--json", "--spacing_mm", "0,0,0"]) == Exit.MISTAKE
    assert capfd.readouterr().out == ""


# ---- training's own ---------------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"config must be a file, or one of demo.yaml, .*, got mine.yaml; there is no such file"):
        with_packaged_configs(["fit", "--config", "mine.yaml"])
    (tmp_path / "mine.yaml").touch()
    assert with_packaged_configs(["fit", "--config", "mine.yaml"]) == ["fit", "--config", "mine.yaml"]


@pytest.mark.parametrize("command", ["preview", "synthesize", "fit"])
def test_help_names_the_presets(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}," in told or f"{name} (" in told for name in presets.names())


def test_a_prediction_says_nothing_of_seeds_or_of_other_peoples_services(cache, tmp_path, monkeypatch, caplog, recwarn):
    from gpu_synth.trainers.fit import train

    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        train(["--data.data_dir", str(cache), "--trainer.accelerator", "cpu", "--trainer.logger", "false"], run=False)
    assert "Seed set to 0" in caplog.text
    assert "Tip: For seamless cloud" not in caplog.text
    assert not [warning for warning in recwarn if "No seed found" in str(warning.message)]


def test_a_checkpoint_tells_the_networks_size_and_nothing_else(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stored = {"size": "small", "overlap": 0.75, "predict_dir": "theirs", "lr": 1.0, "patch_vox": [64, 64, 64]}
    torch.save({"hyper_parameters": stored}, "a.ckpt")
    seen = []
    monkeypatch.setattr("gpu_synth.trainers.fit.GpuSynthCLI.instantiate_classes", lambda cli: seen.append(cli.config.predict.model))
    monkeypatch.setattr("gpu_synth.trainers.fit.GpuSynthCLI.after_instantiate_classes", lambda *_: None)
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

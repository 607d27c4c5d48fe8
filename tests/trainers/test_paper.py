"""The published experiment, from folders as downloaded to scores: made-up LiTS and BTCV, a small network, a few steps."""

import json
import re
from importlib.resources import files
from pathlib import Path

import dataset_folders as made
import pytest
import yaml

from gpu_synth.cli import main
from gpu_synth.datasets import DATASETS
from gpu_synth.evaluate.run import evaluate
from gpu_synth.trainers.fit import train

CONFIGS = Path(str(files("gpu_synth.trainers") / "configs"))
TEST = (2, 13, 15, 17, 19, 21, 33, 42, 62, 64, 66, 68, 70, 74, 78, 95, 99, 107, 111, 121, 123, 127)  # Hu et al. 2022
SMALL = [
    "--data.test_cases=[lits_002,lits_013]",
    "--data.patch_vox=[64,32,32]",
    "--data.samples_per_epoch=6",
    "--data.num_workers=0",
    "--model.overlap=0",
    "--model.network=fit_runs.Small",
    "--model.network.inputs=1",
    "--model.network.outputs=3",
    "--trainer.max_epochs=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]
ARMS = {
    "synthetic": ["--config=paper.yaml", *SMALL, "--data.data_dir=[cache/lits,cache/btcv]", "--data.val_cases=[btcv_0001]"],
    "real": ["--config=paper.yaml", "--config=paper_real.yaml", *SMALL, "--data.val_cases=[lits_004]"],
}
TRAINED = {"synthetic": ["lits_020", "btcv_0002", "btcv_0021"], "real": ["lits_005", "lits_016"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two data sets as downloaded, and prepared."""
    place = tmp_path_factory.mktemp("paper")
    made.lits(place / "LiTS", numbers=(2, 4, 5, 13, 16, 20), healthy=(20,))
    made.btcv(place / "BTCV", numbers=(1, 2, 21))
    for name, folder in (("lits", "LiTS"), ("btcv", "BTCV")):
        options = ["--dataset", name, "--root", str(place / folder), "--out", str(place / "cache" / name), "--spacing_mm", "7,7,8"]
        assert main(["prepare", *options]) == 0
    return place


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_from_folder_to_score(place, arm, monkeypatch):
    monkeypatch.chdir(place)
    cli = train(["fit", *ARMS[arm]])
    data, run = cli.datamodule, Path(f"runs/paper-{arm}/version_0")
    assert [case.name for case in data.training] == TRAINED[arm]
    assert [case.name for case in data.test] == ["lits_002", "lits_013"]
    assert (data.scope, data.tumors) == ("volume", arm)
    assert (data.synthesis.synthesizer.lesions > 0) == (arm == "synthetic")
    assert bool(list(run.glob("synthesised/*.png"))) == (arm == "synthetic")

    best = run / "checkpoints" / "best.ckpt"
    scores = train(["test", *ARMS[arm], f"--ckpt_path={best}"]).trainer.callback_metrics
    assert {"test/dsc_tumor", "test/dsc_organ"} <= scores.keys()

    for kind, name in (("ct", "volume"), ("mask", "segmentation")):
        (place / arm / kind).mkdir(parents=True)
        for n in (2, 13):
            (place / arm / kind / f"lits_{n}.nii").symlink_to(place / "LiTS" / "Training Batch 1" / f"{name}-{n}.nii")
    network = [option for option in SMALL if option.startswith(("--model", "--trainer.a", "--trainer.enable"))]
    train(["predict", *network, f"--ckpt_path={best}", f"--data.predict_images={arm}/ct", f"--model.predict_dir={arm}/predictions"])
    evaluate(predictions=f"{arm}/predictions", references=f"{arm}/mask", out=f"{arm}/report")
    report = json.loads((place / arm / "report" / "scores.json").read_text())
    assert not report["refused"]
    assert not any(report["missing"].values())


def test_the_configs_hold_what_was_published():
    paper, real = (yaml.safe_load((CONFIGS / name).read_text()) for name in ("paper.yaml", "paper_real.yaml"))
    assert paper["data"]["test_cases"] == [DATASETS["lits"].case_name(n) for n in TEST]
    assert not {*paper["data"]["val_cases"], *real["data"]["val_cases"]} & set(paper["data"]["test_cases"])
    assert "test_cases" not in real["data"], "both arms are tested on the same scans"
    assert (paper["data"]["preset"], paper["data"]["scope"], paper["data"]["prob"]) == ("liver-hu2022", "volume", 0.9)
    assert paper["data"]["window_hu"] == [-21.0, 189.0]
    assert (paper["model"]["lr"], paper["model"]["weight_decay"], paper["trainer"]["max_epochs"]) == (4e-4, 1e-5, 4000)


def test_held_out_cases_are_such_as_the_data_sets_have():
    paper, real = (yaml.safe_load((CONFIGS / name).read_text()) for name in ("paper.yaml", "paper_real.yaml"))
    there = {DATASETS[name].case_name(n) for name in ("lits", "chaos", "btcv") for n in DATASETS[name].numbers["liver"]}
    assert {*paper["data"]["val_cases"], *real["data"]["val_cases"], *paper["data"]["test_cases"]} <= there


def test_the_page_tells_of_every_config_data_set_and_test_scan():
    page = (CONFIGS / "README.md").read_text()
    for path in CONFIGS.glob("*.yaml"):
        assert f"`{path.name}`" in page
    for dataset in DATASETS.values():
        assert dataset.page in page
    (numbers,) = re.findall(r"for n in ([\d ]+); do", page)
    assert tuple(map(int, numbers.split())) == TEST
    steps = [4000 * (n // 2) for n in (116, 101)]
    assert [f"{n:,}".replace(",", " ") for n in steps] == re.findall(r"(\d+ 000)(?: steps)? in the", page)

"""Malformed inputs through the command line: each is refused by a line that names it, with its exit code, and leaves nothing behind."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from ct_files import ORIGIN_MM, SHAPE, affine, ct, organ, write
from tiny_training import cache  # noqa: F401 (a fixture)

from gpu_synth.cli import main
from gpu_synth.exits import Exit


class Row(NamedTuple):
    """What is asked for, what is said of it, how it ends, and what it leaves behind."""

    name: str
    command: str
    says: str
    code: int = Exit.MISTAKE
    leaves: tuple[str, ...] = ()


PREPARE = "prepare --images ct --labels liver --out out"
PREVIEW = "preview --out out/x.png"
OF_CASE = "preview --out out/x.png --label liver/a.nii.gz --image"
WITH_MASK = "preview --out out/x.png --image ct/a.nii.gz --label"
SYNTHESIZE = "synthesize --images ct --labels liver --out out"
FIT = "fit --data.data_dir cache --data.patch_vox [64,32,32] --data.num_workers 0 --trainer.accelerator cpu"
EVALUATE = "evaluate --references liver --out out"
LEFT = ("out", "out/manifest.json", "out/sheet.png")  # where every case is refused, these tell why
ROWS = [
    # the command and its options
    Row("subcommand", "prepair", "subcommand must be one of demo, prepare, synthesize, preview, fit"),
    Row("subcommand-nearest", "prepair", "got 'prepair'; did you mean prepare?"),
    Row("option", f"{PREPARE} --spacing_mn 1,1,1", "got '--spacing_mn'; did you mean --spacing_mm?"),
    Row("option-of-none", f"{PREPARE} --zzz 1", "got '--zzz'; gpu-synth prepare --help lists them"),
    Row("no-option", f"{PREPARE} scans", "options must begin with --, got 'scans'"),
    Row("required", "prepare --images ct", "--out must be given"),
    Row("no-value", f"{PREPARE} --workers", "--workers must have a value, got none"),
    Row("text-for-number", f"{PREPARE} --workers two", "workers must be a whole number, got two"),
    Row("half-for-number", f"{PREPARE} --workers 1.5", "workers must be a whole number, got 1.5"),
    Row("two-for-three", f"{PREPARE} --spacing_mm 1,1", "spacing_mm must be 3 numbers, such as '[1,2,3]', got [1, 1]"),
    Row("text-for-switch", f"{PREVIEW} --gallery=perhaps", "gallery must be true or false, got perhaps"),
    Row("text-for-mapping", f"{PREVIEW} --overrides 3", "overrides must be a mapping, such as '{name: value}', or null, got 3"),
    # folders and files
    Row("folder-missing", "prepare --images nowhere --labels liver --out out", "images must be a folder of .nii or .nii.gz files"),
    Row("folder-is-a-file", "prepare --images ct --labels text --out out", "labels must be a folder of .nii or .nii.gz files"),
    Row("unpaired", "prepare --images ct --labels others --out out", "images without exactly one label: a.nii.gz"),
    Row("labels-are-the-images", "prepare --images ct --labels ct --out out", "images and labels must be different files"),
    Row("both-ways", f"{PREPARE} --datalist list.json", "images and labels, or datalist alone, must be given"),
    Row("out-is-a-file", "prepare --images ct --labels liver --out text", "out must be a folder, got text, which is a file"),
    Row("out-in-a-file", f"{WITH_MASK} liver/a.nii.gz --out text/x.png", "out's folder must be a folder, got text, which is a file"),
    Row("out-is-a-folder", f"{PREVIEW} --out ct", "out must be a file to write, got the folder ct; name the file: ct/preview.png"),
    Row("out-unwritable", "prepare --images ct --labels liver --out /proc/out", "/proc/out"),
    Row("demo-into-a-file", "demo --out text", "out must be a folder, got text, which is a file"),
    Row("bench-into-a-file", "bench --names rng --tests false --out text/x.json", "out's folder must be a folder, got text"),
    Row("list-is-no-json", "prepare --datalist text --out out", 'datalist must hold "training": [{"image"'),
    Row("list-of-something-else", "prepare --datalist test.json --out out", 'datalist must hold "training": [{"image"'),
    Row("list-missing", "prepare --datalist nowhere.json --out out", "datalist must be a readable JSON file, got nowhere.json"),
    Row("no-nnunet-folder", "nnunet-dataset --dataset 900 --data_dir cache", "nnUNet_raw must be set to a folder, got nothing; export"),
    # scans
    Row("cut-short", f"{OF_CASE} cut.nii.gz", "cut.nii.gz: cannot be read to its end"),
    Row("png", f"{OF_CASE} png.nii.gz", "png.nii.gz: is no readable NIfTI file"),
    Row("4-d", f"{OF_CASE} four.nii.gz", "four.nii.gz: must hold one volume (i, j, k), got shape (41, 37, 23, 2)"),
    Row("rgb", f"{OF_CASE} rgb.nii.gz", "rgb.nii.gz: must hold one number a voxel"),
    Row("no-hu", f"{OF_CASE} unit.nii.gz", "unit.nii.gz: must be a CT in HU, got values from -1 to 0; convert it"),
    Row("scan-is-a-folder", f"{OF_CASE} ct", "ct: must hold a CT series, got no DICOM file; give"),
    Row("image-alone", "preview --out out/x.png --image ct/a.nii.gz", "image and label must be given together"),
    Row("empty-mask", f"{WITH_MASK} empty.nii.gz", "empty.nii.gz: must hold organ label 1, got only 0; it is empty"),
    Row("mask-of-another-scan", f"{WITH_MASK} elsewhere.nii.gz", "elsewhere.nii.gz: must overlap the image, got an organ of"),
    Row("other-label", f"{WITH_MASK} seven.nii.gz", "must hold organ label 1, got only 0, 7; name the organ's value: --organ_labels 7"),
    Row("probability-map", f"{WITH_MASK} share.nii.gz", "share.nii.gz: must hold whole numbers from 0"),
    Row("background-as-organ", f"{WITH_MASK} liver/a.nii.gz --organ_labels 0", "organ_labels must be whole numbers from 1"),
    Row("negative-spacing", f"{PREPARE} --spacing_mm -1,1,1", "spacing_mm must be three numbers from 0.05 to 30.0, got (-1.0, 1.0, 1.0)"),
    Row("spacing-of-a-metre", f"{PREVIEW} --spacing_mm 1000,1,1", "spacing_mm must be three numbers from 0.05 to 30.0, got (1000.0"),
    Row("organ-is-tumour", f"{PREPARE} --tumor_labels 1", "organ_labels must be whole numbers from 1, at least one, and none of them"),
    Row("workers-below-0", f"{PREPARE} --workers -3", "workers must be 0 or more, got -3; 0 works in this process"),
    Row("all-refused-cut", "prepare --images cut --labels liver --out out", "cut/a.nii.gz: cannot be read", 1, LEFT),
    Row("all-refused-empty", "prepare --images ct --labels empty --out out", "must hold organ label 1, got only 0", 1, LEFT),
    # what is drawn
    Row("preset", f"{PREVIEW} --preset livr", "got 'livr'; did you mean 'liver'?"),
    Row("preset-file", f"{PREVIEW} --preset mine.yaml", "or a YAML file, got mine.yaml; there is no such file"),
    Row("preset-no-yaml", f"{PREVIEW} --preset broken.yaml", "preset must be a YAML file, got broken.yaml: while parsing"),
    Row("preset-field", f"{PREVIEW} --overrides '{{cirrosis_prob: 1}}'", "got 'cirrosis_prob'; did you mean 'cirrhosis_prob'?"),
    Row("count-reversed", f"{PREVIEW} --overrides '{{count: [5, 2]}}'", "count must be (low, high) with 0 ≤ low ≤ high, got (5, 2)"),
    Row("prob-above-1", f"{PREVIEW} --overrides '{{cirrhosis_prob: 2}}'", "cirrhosis_prob must lie in [0, 1], got 2"),
    Row("shares-above-1", f"{PREVIEW} --overrides '{{size_prob: [1, 1, 0, 0]}}'", "size_prob must add up to 1"),
    Row("gallery-and-compare", f"{PREVIEW} --gallery --compare liver,kidney", "compare must be left out of a gallery, got liver,kidney"),
    Row("preset-and-compare", f"{PREVIEW} --compare liver,kidney --preset pancreas", "preset must be left out where compare names"),
    Row("window-swapped", f"{PREVIEW} --window_hu 100,-100", "window_hu must be (low, high) with low < high, got (100.0, -100.0); swap"),
    Row("seed-of-65-bits", f"{PREVIEW} --seed 18446744073709551616", "seed must be an integer of 64 bits"),
    Row("option-as-figure", f"{PREVIEW} --overrides.prob 0.5", "kinds, got 'prob'; it is an option of its own, not of the preset"),
    Row("option-of-files", f"{SYNTHESIZE} --overrides.seed 3", "kinds, got 'seed'; it is an option of its own, not of the preset"),
    Row("idle", f"{PREVIEW} --overrides.halo_mm '[3, 9]'", "halo_mm must be left out where halo is (0, 0), got (3, 9); give halo"),
    Row("config-misspelt", "fit --config livr.yaml", "which come with the package, got livr.yaml; did you mean liver.yaml?"),
    # what is written of it
    Row("variants", f"{SYNTHESIZE} --variants 0", "variants must be 1 or more, got 0"),
    Row("plan-missing", f"{SYNTHESIZE} --plan nowhere.json", "plan must be a JSON file from plans, edited, got nowhere.json"),
    Row("plan-is-no-json", f"{SYNTHESIZE} --plan text", "plan must be a JSON file from plans, edited, got text"),
    Row("plan-of-another-format", f"{SYNTHESIZE} --plan test.json", "plan must be JSON of format 'gpu-synth plan json 1', as gpu-synth"),
    Row("into-a-file", SYNTHESIZE.replace("--out out", "--out text"), "out must be a folder, got text, which is a file; name another"),
    Row("unknown-backend", f"{SYNTHESIZE} --backend cuda", "backend must be one of auto, torch, cupy, got 'cuda'; did you mean 'cupy'?"),
    Row("unknown-device", f"{SYNTHESIZE} --device tpu", "device must be auto, cpu, cuda or cuda:0 and so on, and be there, got 'tpu'"),
    Row("tumour-is-organ", f"{SYNTHESIZE} --tumor_label 1", "tumor_label must be a whole number from 1 and none of organ_labels, got 1"),
    Row("rank-alone", f"{SYNTHESIZE} --rank 1", "rank and world_size must be given together"),
    Row("dataset", "prepare --dataset litz --root ct --out out", "dataset must be one of lits, msd-liver, chaos"),
    Row("dataset-and-images", f"{PREPARE} --dataset lits", "dataset and root must be given together"),
    # training and prediction
    Row("config-missing", "fit --config nowhere.yaml", "which come with the package, got nowhere.yaml; there is no such file"),
    Row("config-no-yaml", "fit --config broken.yaml", "configuration must be YAML, got what is none"),
    Row("config-typo", "fit --config typo.yaml", "got 'trainer.max_epoch'; did you mean trainer.max_epochs?"),
    Row("config-wrong-type", "fit --config type.yaml", "data.batch_size must be a whole number, got big"),
    Row("data-missing", "fit --data.data_dir nowhere", "prepared data must be a folder with manifest.json, got nowhere; run gpu-synth pre"),
    Row("data-not-named", "fit", "data_dir must be a folder that gpu-synth prepare wrote, got None; give --data.data_dir"),
    Row("manifest-of-another-format", "fit --data.data_dir future", "manifest must be of format"),
    Row("batch-of-0", f"{FIT} --data.batch_size 0", "batch_size must be 1 or more, got 0"),
    Row("patch", f"{FIT} --data.patch_vox [64,48,32]", "patch_vox must be three multiples of 32, one of them above it, got [64, 48, 32]"),
    Row("prob", f"{FIT} --data.prob 1.5", "prob must be a number in [0, 1], got 1.5"),
    Row("flip", f"{FIT} --data.augmentation.flip_prob 2", "flip_prob must be a number in [0, 1], got 2.0"),
    Row("epoch-of-nothing", f"{FIT} --data.samples_per_epoch 1", "samples_per_epoch must be at least batch_size 2"),
    Row("held-out-case", f"{FIT} --data.val_cases [nobody]", "val_cases must name prepared cases, got nobody"),
    Row("learning-rate", f"{FIT} --model.lr -1", "lr must be above 0"),
    Row("size", f"{FIT} --model.size huge", "model.size must be one of tiny, small, base, got huge"),
    Row("scope", f"{FIT} --data.scope pach", "data.scope must be one of patch, volume, got pach; did you mean patch?"),
    Row("device", f"{FIT} --trainer.accelerator gpuu", "You selected an invalid accelerator name: `accelerator='gpuu'`"),
    Row("precision", f"{FIT} --trainer.precision 12", "trainer.precision must be one of 64, 32, 16"),
    Row("runs-in-a-file", f"{FIT} --trainer.default_root_dir text", "trainer.default_root_dir must be a folder, got text"),
    Row("no-checkpoint", "predict --data.predict_images ct", "ckpt_path must be a checkpoint of gpu-synth fit, got None"),
    Row("checkpoint-missing", f"{FIT} --ckpt_path nowhere.ckpt", "ckpt_path must be a checkpoint that is there, got nowhere.ckpt"),
    Row("checkpoint-is-text", f"{FIT} --ckpt_path text", "ckpt_path must be a whole checkpoint, got text: it is no file that torch.save"),
    Row("checkpoint-without-weights", f"{FIT} --ckpt_path dict.ckpt", "got dict.ckpt, which holds no weights"),
    Row("checkpoint-of-another-network", f"{FIT} --ckpt_path other.ckpt", "ckpt_path must be a checkpoint of this network, got other.ckpt"),
    Row("checkpoint-of-another-size", f"{FIT} --ckpt_path small.ckpt --model.size tiny", "model.size must be 'small', as in small.ckpt"),
    Row("predict-another-network", "predict --ckpt_path other.ckpt --data.data_dir cache --data.predict_images ct", "other.ckpt, in which"),
    Row("nothing-to-predict", "predict --ckpt_path other.ckpt --data.data_dir cache --data.predict_images no", "predict_images must be"),
    Row("nothing-to-test", "test --ckpt_path other.ckpt --data.data_dir cache --data.test_dir no", "prepared data must be a folder"),
    # evaluation and benchmark
    Row("no-name-matches", f"{EVALUATE} --predictions others", "predictions must match references by name, each one at most, got b.nii.gz"),
    Row("no-predictions", f"{EVALUATE} --predictions nowhere", "predictions must be a folder of .nii or .nii.gz files"),
    Row("itself", f"{EVALUATE} --predictions liver", "predictions and references must be different files, got a.nii.gz"),
    Row("grids-differ", f"{EVALUATE} --predictions aside", "predictions must hold a case that can be scored, got 1 refused; a:"),
    Row("twice-the-same", f"{EVALUATE} --predictions others --compare others", "predictions must match references by name"),
    Row("label-in-both", f"{EVALUATE} --predictions ct --tumor_labels 1", "organ_labels and tumor_labels must be whole numbers from 1"),
    Row("operation", "bench --names shapes --tests false", "names must be among rng, plan, placement"),
    Row("bench-device", "bench --names rng --tests false --device tpu", "device must be 'auto', 'cpu' or a 'cuda' that is there"),
]  # fmt: skip
WITHOUT_GPU = [
    Row("no-cuda-to-bench", "bench --names rng --tests false --device cuda", "device must be 'auto', 'cpu' or a 'cuda' that is there"),
    Row("no-cuda-to-train", FIT.replace("cpu", "cuda"), "`CUDAAccelerator` can not run on your system"),
    Row("no-cupy-to-synthesize", f"{SYNTHESIZE} --backend cupy", "backend 'cupy' must have CUDA tensors and a CuPy that can launch, got: "),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):  # noqa: F811
    """A folder with one good case in ct/ and liver/, a prepared cache, and all that is malformed."""
    root = tmp_path_factory.mktemp("malformed")
    good = write(root / "ct" / "a.nii.gz", ct())
    write(root / "liver" / "a.nii.gz", organ())
    write(root / "others" / "b.nii.gz", organ())
    write(root / "aside" / "a.nii.gz", organ(), at=affine(origin_mm=ORIGIN_MM + 5))
    for name in ("cut.nii.gz", "cut/a.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (root / "png.nii.gz").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    write(root / "four.nii.gz", np.stack([ct()] * 2, -1))
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, affine()), root / "rgb.nii.gz")
    write(root / "unit.nii.gz", (ct() / 1000).astype(np.float32))
    for name in ("empty.nii.gz", "empty/a.nii.gz"):
        write(root / name, np.zeros(SHAPE, np.uint8))
    write(root / "elsewhere.nii.gz", organ(), at=affine(origin_mm=ORIGIN_MM + 500))
    write(root / "seven.nii.gz", 7 * organ())
    write(root / "share.nii.gz", np.float32(0.3) * organ())
    torch.save({"epoch": 3}, root / "dict.ckpt")
    torch.save({"state_dict": {"network.weight": torch.zeros(3)}}, root / "other.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"size": "small"}}, root / "small.ckpt")
    texts = {
        "text": "neither JSON: {nor a checkpoint",
        "test.json": '{"test": []}',
        "broken.yaml": "data: [a\n  b: {",
        "typo.yaml": "trainer: {max_epoch: 3}",
        "type.yaml": "data: {batch_size: big}",
        "future/manifest.json": '{"format": 1000}',
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / "cache").symlink_to(cache)
    return root


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder, with size and time of change."""
    paths = [path for top in (root, root / "cache") for path in top.rglob("*")]
    return {str(path.relative_to(root)): (0 if path.is_dir() else path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_it_is_refused_in_a_line_and_leaves_nothing(row, place, monkeypatch, capsys):
    refuse(row, place, monkeypatch, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
@pytest.mark.parametrize("row", WITHOUT_GPU, ids=lambda row: row.name)
def test_without_a_gpu_it_is_refused(row, place, monkeypatch, capsys):
    refuse(row, place, monkeypatch, capsys)


def refuse(row: Row, place: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("nnUNet_raw", raising=False)
    before = tree(place)
    try:
        code = main(shlex.split(row.command))
        out = capsys.readouterr()
        left = {name: stamp for name, stamp in tree(place).items() if before.get(name) != stamp}
    finally:
        rmtree(place / "out", ignore_errors=True)
    assert (code, set(left)) == (row.code, set(row.leaves)), out.err
    assert before.keys() <= tree(place).keys()
    assert "Traceback" not in out.out + out.err
    if row.code == Exit.MISTAKE:
        _, line = out.err.split("gpu-synth: error: ")
        assert row.says in line
    else:
        assert row.says in out.out


BY_PROCESS = ("subcommand", "option", "cut-short", "config-typo", "batch-of-0", "no-name-matches", "all-refused-empty")


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in BY_PROCESS], ids=lambda row: row.name)
def test_by_a_process_of_its_own_it_is_the_same(row, place, tmp_path):
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    command = [sys.executable, "-m", "gpu_synth.cli", *shlex.split(row.command)]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "300"})
    assert out.returncode == row.code, out.stderr
    assert row.says in (out.stderr if row.code == Exit.MISTAKE else out.stdout)
    assert "Traceback" not in out.stderr
    assert (tmp_path / "out").exists() == bool(row.leaves)
    assert not (tmp_path / "runs").exists()


def test_there_are_thirty_and_more_each_under_a_name_of_its_own():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 30

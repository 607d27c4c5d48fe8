"""The learning experiment: end to end with the network of the large scale, going on where it was stopped; and its tables."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gpu_synth.bench.learning import experiment as runs_of
from gpu_synth.bench.learning import train as training
from gpu_synth.bench.learning.__main__ import learning
from gpu_synth.bench.learning.experiment import experiment
from gpu_synth.bench.learning.scans import SETS
from gpu_synth.bench.learning.settings import ARMS, SCALES, Scale
from gpu_synth.bench.learning.tables import compared, found, learned, runs
from gpu_synth.bench.learning.train import OfflineDataModule, about, load_weights, save_weights
from gpu_synth.evaluate.lesions import SIZES
from gpu_synth.phantom import phantom
from gpu_synth.volumes import save_nifti

TINY = Scale("tiny", "swin-unetr-tiny", 8.0, (64, 32, 32), 1, 2, 1e-3, phantoms=1, pool=2, scans=2)
TWO = {name: ARMS[name] for name in ("hu2022", "offline")}
SHAPE, SPACING_MM = (48, 40, 30), (8.0, 8.0, 8.0)


@pytest.fixture(scope="module")
def ct_dir(tmp_path_factory):
    """Phantoms in place of CTs."""
    folder = tmp_path_factory.mktemp("ct")
    for uid in (7, 8):
        scan = phantom(uid, SHAPE, SPACING_MM)
        save_nifti(folder / f"p{uid}_ct.nii.gz", scan.image[0, 0].numpy().astype(np.int16), np.diag([*SPACING_MM, 1.0]))
        save_nifti(folder / f"p{uid}_liver.nii.gz", scan.label[0, 0].numpy(), np.diag([*SPACING_MM, 1.0]))
    return folder


@pytest.fixture(scope="module")
def done(ct_dir, tmp_path_factory):
    """Two arms, one seed."""
    folder = tmp_path_factory.mktemp("learning")
    paths = experiment(TINY, TWO, [3], ct_dir, "p8", folder / "work", folder / "out")
    return folder, paths


def again(done, ct_dir, scale=TINY):
    return experiment(scale, TWO, [3], ct_dir, "p8", done[0] / "work", done[0] / "out")


def figures(path: Path) -> dict:
    """What a result holds, but for times."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in ("seconds", "commit", "date")}


def test_a_run_leaves_what_it_was_of_and_what_it_found(done):
    for path, name in zip(done[1], TWO, strict=True):
        result = json.loads(path.read_text())
        assert path.name == f"learning-tiny-{name}-seed3.json"
        assert (result["arm"], result["seed"], result["scale"]["steps"]) == (name, 3, 2)
        assert result["versions"]["torch"] == torch.__version__
        assert len(result["loss_by_tenth"]) == 2
        assert len(result["scans"]) == 2 * len(SETS)
        assert {scan["set"] for scan in result["scans"]} == SETS.keys()
        assert sum(sum(scan["lesions"]) for scan in result["scans"]) > 0
        assert all(len(scan["found"]) == len(scan["lesions"]) == len(SIZES) for scan in result["scans"])
    first, second = (json.loads(path.read_text()) for path in done[1])
    assert [s["lesions"] for s in first["scans"]] == [s["lesions"] for s in second["scans"]], "both were tested on the same lesions"


def test_what_is_held_out_is_not_trained_on(done, ct_dir, monkeypatch):
    modules = []
    monkeypatch.setattr(training, "segmenter", lambda scale: modules.append(scale) or _stop())
    with pytest.raises(InterruptedError):
        experiment(TINY, TWO, [4], ct_dir, "p8", done[0] / "work", done[0] / "elsewhere")
    manifest = json.loads((done[0] / "work" / "tiny-without-p8" / "prepared" / "manifest.json").read_text())
    result = json.loads(done[1][0].read_text())
    assert set(result["held_out"]) == {"phantom1000", "phantom1001", "p8_ct"}
    names = {case["name"] for case in manifest["cases"]}
    assert names == {"phantom0000", "phantom1000", "phantom1001", "p7_ct", "p8_ct"}


def _stop():
    raise InterruptedError


def test_goes_on_with_what_is_missing(done, ct_dir, monkeypatch):
    kept, lost = done[1]
    before, stamp = figures(lost), kept.stat().st_mtime_ns
    lost.unlink()
    (done[0] / "work" / "tiny-without-p8" / "weights" / "offline-seed3.safetensors").unlink()
    trained = []
    monkeypatch.setattr(runs_of, "train", lambda *args: trained.append(args[1]) or training.train(*args))
    again(done, ct_dir)
    assert trained == [ARMS["offline"]]
    assert kept.stat().st_mtime_ns == stamp
    assert figures(lost) == before, "the same run gives the same figures"


def test_scores_weights_that_are_there(done, ct_dir, monkeypatch):
    monkeypatch.setattr(runs_of, "train", lambda *_: _stop())
    before = figures(done[1][0])
    done[1][0].unlink()
    again(done, ct_dir)
    assert figures(done[1][0]) == before


def test_refuses_results_of_other_settings(done, ct_dir):
    with pytest.raises(ValueError, match=r"same settings, got .*learning-tiny-hu2022-seed3.json of another scale; move it away"):
        again(done, ct_dir, replace(TINY, steps=5))
    with pytest.raises(ValueError, match="of another held_out_ct; move it away"):
        experiment(TINY, TWO, [3], ct_dir, "p7", done[0] / "work", done[0] / "out")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale": "large"}, "scale must be one of small, paper"),
        ({"arms": ["liver", "lung"]}, "arms must be among .*, got lung"),
        ({"ct_dir": Path("nowhere")}, "ct_dir must be a folder"),
        ({"held_out_ct": "p9"}, r"held_out_ct must be a CT of .*, got 'p9'; there are \['p7', 'p8'\]"),
    ],
)
def test_refuses_what_it_cannot_do(ct_dir, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        learning(**{"ct_dir": ct_dir, "work": tmp_path, "out": tmp_path, **options})


@pytest.mark.parametrize("offline", [False, True])
def test_offline_patches_come_again_with_their_tumours(done, offline):
    root = done[0] / "work" / "tiny-without-p8" / "prepared"
    options = {"data_dir": str(root), "patch_vox": (16, 16, 16), "samples_per_epoch": 4, "batch_size": 2, "num_workers": 0, "prob": 1.0}
    data = OfflineDataModule(2 if offline else 100, **options)
    data.setup("fit")
    batches = list(data.train_dataloader())
    painted = [data.synthesis(b["image"].float(), b["label"], b["spacing_mm"], b["uid"]) for b in batches]
    assert [b["uid"].tolist() for b in batches] == [[0, 1], [2, 3]], "by which they are augmented anew"
    assert torch.equal(painted[0][0], painted[1][0]) == offline
    assert torch.equal(painted[0][1], painted[1][1]) == offline


@pytest.mark.parametrize("name", ["small", "paper"])
def test_weights_are_kept_in_half_precision(tmp_path, name):
    scale = SCALES[name]
    torch.manual_seed(0)
    network, other = scale.build(), scale.build()
    save_weights(network, tmp_path / "w.safetensors", {"seed": 5})
    load_weights(other, tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").stat().st_size < 10e6
    assert about(tmp_path / "w.safetensors") == {"seed": 5}
    assert about(tmp_path / "none.safetensors") == {}
    with pytest.raises(ValueError, match=r"must be those of the scale's network, got .*w\.safetensors"):
        load_weights(nn.Conv3d(1, 3, 1), tmp_path / "w.safetensors")
    for (key, ours), theirs in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(theirs.float(), ours.float(), rtol=1e-3, atol=1e-6, msg=key)


# ---- tables of given results ------------------------------------------------------------------------------------------------------------


def result(arm: str, seed: int, dsc: list[float], hits: list[int]) -> dict:
    """A run whose scans each hold two lesions under 5 mm and one over 20 mm."""
    scans = [
        {
            "set": group,
            "scan": f"{group}{n}",
            "dsc_tumor": dsc[n],
            "nsd_tumor": dsc[n] / 2,
            "dsc_organ": 0.9,
            "false_positives": n,
            "found": [hits[n], 0, 0, 0, 1],
            "lesions": [2, 0, 0, 0, 1],
        }
        for group in SETS
        for n in range(len(dsc))
    ]
    return {
        "arm": arm,
        "seed": seed,
        "loss_by_tenth": [1.5, 0.25],
        "seconds": {"training": 60.4, "scoring": 7.0},
        "device": "a machine",
        "threads": 1,
        "versions": {"torch": "2", "monai": "1"},
        "commit": "abc",
        "scans": scans,
    }


GIVEN = [
    result("liver", 0, [0.2, 0.4], [0, 2]),
    result("liver", 1, [0.4, 0.6], [2, 2]),
    result("offline", 0, [0.1, 0.2], [0, 1]),
]


def test_table_of_what_was_learned():
    head, rows = learned(GIVEN)
    row = dict(zip(head, next(row for row in rows if row[:2] == ("CT", "liver")), strict=True))
    assert row["seeds"] == 2
    assert row["tumour DSC, %"] == "40.0 [30.0, 50.0]", "of means over seeds, 30 and 50"
    assert row["of each seed"] == "30.0 / 50.0"
    assert row["tumour NSD at 2 mm, %"] == "20.0 [15.0, 25.0]"
    assert row["false positives a scan"] == "0.5 [0.0, 1.0]"
    assert {row[1] for row in rows} == {"liver", "offline"}, "arms without a run have no row"


def test_table_of_lesions_found():
    head, rows = found(GIVEN)
    row = dict(zip(head, next(row for row in rows if row[:2] == ("phantoms", "liver")), strict=True))
    assert row["under 5 mm"] == "75 of 4", "0 + 2 + 2 + 2 of 8, over two seeds"
    assert row["5 to 10 mm"] == "none"
    assert row["over 20 mm"] == "100 of 2"
    assert row["all"].endswith("of 6")


def test_table_of_differences_is_of_shared_seeds():
    head, rows = compared(GIVEN)
    row = dict(zip(head, next(row for row in rows if row[:2] == ("CT", "liver − offline")), strict=True))
    assert row["seeds"] == 1
    assert row["tumour DSC, points"] == "15.0 [10.0, 20.0]"
    assert row["seeds in which it is higher"] == "1 of 1"
    assert row["lesions found, points"] == "16.7 [0.0, 33.3]"
    assert len(rows) == len(SETS), "only one pair has runs of both"


def test_table_of_runs():
    head, rows = runs(GIVEN)
    assert [row[:2] for row in rows] == [("liver", 0), ("offline", 0), ("liver", 1)]
    assert dict(zip(head, rows[0], strict=True))["loss, first and last tenth"] == "1.50 → 0.25"

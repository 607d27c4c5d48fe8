"""Which scans are trained, validated and tested on, where data sets come together and some scans have tumours of their own."""

from dataclasses import replace

import pytest
import torch
from tiny_training import Recorder, data_of, trainer_of, write_scan

from gpu_synth.manifest import load_case, load_manifest
from gpu_synth.prepare.run import prepare
from gpu_synth.trainers.augment import window
from gpu_synth.trainers.split import load_all, split


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """Five scans, of which the last two have no tumour."""
    folder = tmp_path_factory.mktemp("annotated")
    for n in range(5):
        write_scan(folder, f"real{n}", [0.6, 0.7, 0.8], tumor=n < 3)
    out = folder / "cache"
    prepare(images=folder / "ct", labels=folder / "liver", out=out, spacing_mm=(2.0, 2.0, 2.0), tumor_labels=(2,))
    return out


def names(cases):
    return [case.name for case in cases]


def test_folders_come_together(cache, annotated):
    every = load_all([str(cache), str(annotated)])
    assert names(every.cases) == [f"case{n}" for n in range(4)] + [f"real{n}" for n in range(5)]
    for manifest in (load_manifest(cache), load_manifest(annotated)):
        for case in manifest.cases:
            for got, wanted in zip(load_case(every, case.name)[:2], load_case(manifest, case.name)[:2], strict=True):
                assert torch.equal(got, wanted)


def test_a_folder_twice_is_refused(cache, annotated, tmp_path):
    with pytest.raises(ValueError, match=r"share no case, got case0, case1, case2, case3 more than once"):
        load_all([str(cache), str(cache)])
    with pytest.raises(ValueError, match=r"data_dir must name a folder .*, got an empty list"):
        load_all([])
    write_scan(tmp_path, "coarse", [0.6, 0.7, 0.8])
    prepare(images=tmp_path / "ct", labels=tmp_path / "liver", out=tmp_path / "cache", spacing_mm=(3.0, 3.0, 3.0))
    with pytest.raises(ValueError, match=r"folders of one spacing, got \[\[2.0, 2.0, 2.0\], \[3.0, 3.0, 3.0\]\] mm"):
        load_all([str(cache), str(tmp_path / "cache")])


def test_folders_of_two_organs_are_refused(cache, annotated, tmp_path):
    """Whose label 1 means one organ here and another there."""
    folders = []
    for source, organ in ((cache, "liver"), (annotated, "spleen")):
        manifest = load_manifest(source)
        folder = tmp_path / organ
        folder.mkdir()
        replace(manifest, root=folder, settings=manifest.settings | {"dataset": "btcv", "organ": organ}).save()
        folders.append(str(folder))
    with pytest.raises(
        ValueError, match=r"data_dir must name folders of one organ, got \['liver', 'spleen'\] in .*; prepare them with one --organ"
    ):
        load_all(folders)
    assert len(load_all([folders[0], str(annotated)]).cases) == 9  # of other folders nobody knows


@pytest.mark.parametrize(
    ("tumors", "training", "held_out"),
    [
        ("synthetic", ["case0", "case1", "case2", "case3", "real4"], ["real3"]),
        ("real", ["real0"], ["real2"]),
        ("both", ["case0", "case1", "case2", "case3", "real2", "real3", "real4"], ["real0"]),
    ],
)
def test_scans_are_shared_out_by_their_tumours(cache, annotated, tumors, training, held_out):
    every = load_all([str(cache), str(annotated)])
    got = split(every, tumors, val_cases=held_out, test_cases=["real1"])
    assert (names(got.training), names(got.held_out), names(got.test)) == (training, held_out, ["real1"])


@pytest.mark.parametrize(
    ("tumors", "val", "test", "message"),
    [
        ("synthetic", ["real0"], [], r"val_cases must be without a tumour and none of test_cases, got real0"),
        ("real", ["case0"], [], r"val_cases must be with a tumour and none of test_cases, got case0"),
        ("both", ["case0"], ["case0"], r"val_cases must be of either kind and none of test_cases, got case0"),
        ("both", [], ["lits_002"], r"test_cases must name prepared cases, got lits_002, which are none of the 9 in data_dir \(case0"),
        ("real", ["real0"], ["real1", "real2"], r"data_dir must hold a case that is not held out, with a tumour, got"),
    ],
)
def test_a_split_that_cannot_be_is_refused(cache, annotated, tumors, val, test, message):
    with pytest.raises(ValueError, match=message):
        split(load_all([str(cache), str(annotated)]), tumors, val, test)


def test_real_tumours_are_trained_on_as_they_are(annotated, tmp_path):
    """No synthesis, in training nor in validation; every label is one that a scan has."""
    module, data = Recorder(), data_of(annotated, tumors="real", scope="volume", test_cases=("real1",), val_cases=("real2",))
    trainer_of(tmp_path).fit(module, data)
    assert (data.synthesis.synthesizer.lesions, data.synthesis.synthesizer.skipped) == (0, 0)
    manifest = load_manifest(annotated)
    label = load_case(manifest, "real0")[1]
    most = int((label == 2).sum())
    tumors = [int((sample == 2).sum()) for batch in module.seen for sample in batch["label"]]
    assert 0 < max(tumors) <= most
    (held_out,) = module.held_out
    (i0, j0, k0), (i1, j1, k1) = manifest.case("real2").organ_bbox_vox
    label = load_case(manifest, "real2")[1]
    assert (held_out["label"] == 2).sum() == (label == 2).sum() > 0
    assert (held_out["label"] > 0).sum() == (i1 - i0) * (j1 - j0) * (k1 - k0) - (label[0, i0:i1, j0:j1, k0:k1] == 0).sum()


def test_cases_that_are_kept_are_tested_as_they_are(annotated, tmp_path):
    data = data_of(annotated, tumors="both", test_cases=("real1", "real3"), val_margin_mm=None)
    module = Recorder()
    trainer_of(tmp_path).test(module, data, verbose=False)
    assert len(module.held_out) == 2
    for batch, name in zip(module.held_out, ("real1", "real3"), strict=True):
        image, label, _ = load_case(load_manifest(annotated), name)
        assert torch.equal(batch["label"][0], label)
        assert torch.equal(batch["image"][0], window(image.float(), data.window_hu))


def test_soft_labels_of_real_tumours_are_refused(annotated):
    with pytest.raises(ValueError, match="soft_labels must be False for tumors 'real'"):
        data_of(annotated, tumors="real", soft_labels=True)

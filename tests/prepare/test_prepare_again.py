"""A second run of `gpu-synth prepare`: what it keeps, what is odd and refused on demand, and what a killed run leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ct_files import SHAPE, affine, ct, organ, write, write_case
from dataset_folders import AFFINE, body
from matplotlib.image import imread

from gpu_synth.cli import main
from gpu_synth.manifest import load_manifest
from gpu_synth.oddities import oddities
from gpu_synth.prepare.run import prepare
from gpu_synth.prepare.sheet import case_picture
from gpu_synth.volumes import Volume


def run(folder: Path, source: Path | None = None, **how):
    source = source or folder
    return prepare(images=source / "images", labels=source / "labels", out=folder / "out", spacing_mm=(2, 2, 3), **how)


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name in after if after[name] != before.get(name)}


def test_nothing_is_written_again_where_nothing_changed(tmp_path, capsys):
    write_case(tmp_path)
    run(tmp_path)
    before = stamps(tmp_path / "out")
    run(tmp_path)
    assert stamps(tmp_path / "out") == before
    assert "(1 as before)" in capsys.readouterr().out


def test_a_file_that_was_touched_or_copied_is_known_by_its_content(tmp_path):
    for name in "ab":
        write_case(tmp_path, name)
    first = run(tmp_path)
    before = stamps(tmp_path / "out")
    os.utime(tmp_path / "images" / "a.nii.gz", ns=(1, 1))
    run(tmp_path)
    assert changed(before, stamps(tmp_path / "out")) == {"a/case.json", "manifest.json", "sheet.png"}
    before = stamps(tmp_path / "out")
    run(tmp_path)
    assert stamps(tmp_path / "out") == before
    for name in ("images", "labels"):
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    moved = run(tmp_path, tmp_path / "elsewhere", workers=2)
    assert changed(before, stamps(tmp_path / "out")) == {"a/case.json", "b/case.json", "manifest.json", "sheet.png"}
    assert moved.cases[0].source_image == str(tmp_path / "elsewhere" / "images" / "a.nii.gz")
    assert [case.image_sha256 for case in moved.cases] == [case.image_sha256 for case in first.cases]
    assert len({case.image_sha256 for case in moved.cases} | {case.label_sha256 for case in moved.cases}) == 2  # a and b are alike


def test_content_that_changed_is_seen_though_length_and_date_are_as_before(tmp_path):
    write(tmp_path / "images" / "a.nii", ct())
    write(tmp_path / "labels" / "a.nii", organ())
    first = run(tmp_path)
    stat = (tmp_path / "images" / "a.nii").stat()
    write(tmp_path / "images" / "a.nii", ct() + 7)
    os.utime(tmp_path / "images" / "a.nii", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (tmp_path / "images" / "a.nii").stat().st_size == stat.st_size
    again = run(tmp_path)
    assert again.cases[0].organ_mean_hu == pytest.approx(first.cases[0].organ_mean_hu + 7, abs=0.01)
    assert again.cases[0].image_sha256 != first.cases[0].image_sha256


def test_other_names_are_other_settings(tmp_path):
    write_case(tmp_path)
    run(tmp_path)
    before = stamps(tmp_path / "out")
    assert run(tmp_path, organ_names=("Liver",)).settings["organ_names"] == ["Liver"]
    assert "a/image.nii" in changed(before, stamps(tmp_path / "out"))


def test_a_manifest_of_an_earlier_format_is_made_anew(tmp_path):
    write_case(tmp_path)
    run(tmp_path)
    for name in ("manifest.json", "a/case.json"):
        path = tmp_path / "out" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(ValueError, match=r"manifest must be of format 2, got 1 .* run gpu-synth prepare again"):
        load_manifest(tmp_path / "out")
    before = stamps(tmp_path / "out")
    run(tmp_path)
    assert changed(before, stamps(tmp_path / "out")) == set(before)
    assert load_manifest(tmp_path / "out").cases


def odd_cases(folder: Path) -> None:
    two, cut, tiny = organ(), organ(), np.zeros(SHAPE, np.uint8)
    two[2:4, 2:4, 2:4] = 1
    cut[:, :, :13] = cut[:, :, 13:14]
    tiny[18:24, 12:16, 12:15] = 1
    for name, label in {"two": two, "cut": cut, "tiny": tiny, "good": organ(), "lung": organ()}.items():
        write(folder / "images" / f"{name}.nii", ct() - 900 * organ().astype(np.int16) * (name == "lung"))
        write(folder / "labels" / f"{name}.nii", label)


ODD = {"two": "2 components", "cut": "cut at bottom", "tiny": "only 0.29 ml", "lung": "-804 HU is no soft tissue"}


def test_what_looks_odd_is_shown_and_refused_on_demand(tmp_path, capsys):
    odd_cases(tmp_path)
    manifest = run(tmp_path)
    assert {name: "; ".join(findings) for name, findings in manifest.odd} == ODD
    said = capsys.readouterr().out
    assert all(words in said for words in (*ODD.values(), "5 cases", "4 odd, 0 refused", "sheet.png"))
    before = stamps(tmp_path / "out")
    options = ["--images", f"{tmp_path}/images", "--labels", f"{tmp_path}/labels", "--out", f"{tmp_path}/out", "--spacing_mm", "2,2,3"]
    assert main(["prepare", *options]) == 0
    assert main(["prepare", *options, "--strict"]) == 1
    assert changed(before, stamps(tmp_path / "out")) == {"manifest.json", "sheet.png"}
    strict = load_manifest(tmp_path / "out")
    assert [case.name for case in strict.cases] == ["good"]
    assert {name: why.split("; look at")[0] for name, why in strict.refused} == {name: f"looks odd: {why}" for name, why in ODD.items()}
    assert main(["prepare", *options]) == 0
    assert len(load_manifest(tmp_path / "out").cases) == 5


def test_a_mask_that_lies_the_wrong_way_round_is_odd(tmp_path):
    """Though shape and header are right: in folders of one's own nothing else tells."""
    hu, liver = body(1)
    for name, label in {"good": liver, "swapped": liver.transpose(1, 0, 2), "flipped": liver[:, ::-1]}.items():
        write(tmp_path / "images" / f"{name}.nii", hu, AFFINE)
        write(tmp_path / "labels" / f"{name}.nii", np.ascontiguousarray(label), AFFINE)
    manifest = run(tmp_path)
    fits = {case.name: case.fits_only for case in manifest.cases}
    assert fits == {"flipped": "flipped along j", "good": "", "swapped": "with i and j swapped"}
    odd = {name: "; ".join(findings) for name, findings in manifest.odd}
    assert all(f"fits only {fits[name]}" in odd[name] for name in ("flipped", "swapped"))
    assert "fits only" not in odd.get("good", "")


def test_odd_is_what_is_unlike_the_other_cases(tmp_path):
    write_case(tmp_path)
    (case,) = run(tmp_path).cases
    pairs = [replace(case, name=name, components=2, organ_ml=300.0) for name in "abcd"]
    assert not oddities(pairs), "two kidneys in every case"
    assert dict(oddities(pairs[:2])) == dict.fromkeys("ab", ("2 components",)), "two cases say nothing of what is usual"
    few = [*pairs, replace(pairs[0], name="few", organ_ml=60.0, components=3)]
    assert oddities(few) == (("few", ("only 60 ml, 300 are usual", "3 components")),)


def test_every_case_has_a_picture_and_the_sheet_holds_them_all(tmp_path):
    odd_cases(tmp_path)
    write(tmp_path / "images" / "bad.nii", ct())
    write(tmp_path / "labels" / "bad.nii", np.zeros(SHAPE, np.uint8))
    manifest = run(tmp_path)
    assert [name for name, _ in manifest.refused] == ["bad"]
    sheet = (255 * imread(tmp_path / "out" / "sheet.png")[..., :3]).round().astype(int)
    outline = np.array([79, 195, 247])
    for case in manifest.cases:
        picture = (255 * imread(manifest.root / case.picture)[..., :3]).round().astype(int)
        line = (picture == outline).all(-1)
        assert line.any(), case.name
        if case.name == "good":  # pixels are voxels here; the patient's right is on the left
            ni, (low, high) = case.shape[0], (case.organ_bbox_vox[end][0] for end in (0, 1))
            axial = np.flatnonzero(line[:, :ni].any(0))
            assert (axial[0], axial[-1] - axial[0]) == (ni - high, high - 1 - low)
    assert (sheet == outline).all(-1).sum() == sum(
        ((255 * imread(manifest.root / case.picture)[..., :3]).round() == outline).all(-1).sum() for case in manifest.cases
    ), "each picture is on the sheet, none is covered or cut"
    assert (sheet[..., 0] > sheet[..., 1] + 100).sum() > 50, "odd names are red"


def test_a_picture_of_nothing_but_air_is_drawn(tmp_path):
    """A mask far off its organ, too small to show."""
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = 1
    volume = Volume(np.full(SHAPE, -1000, np.int16), affine((0.5, 0.5, 0.5)))
    assert case_picture(volume, label).ndim == 3


def test_noise_and_contrast_are_measured(tmp_path):
    noise = np.random.default_rng(0).normal(0, 12, SHAPE)
    flat = np.where(organ(), 60, -300)
    for name, hu in {"plain": flat, "enhanced": flat + 60 * organ()}.items():
        write(tmp_path / "images" / f"{name}.nii", np.rint(hu + noise).astype(np.int16), affine((1, 1, 1)))
        write(tmp_path / "labels" / f"{name}.nii", organ(), affine((1, 1, 1)))
    manifest = prepare(images=tmp_path / "images", labels=tmp_path / "labels", out=tmp_path / "out")
    told = {case.name: (case.noise_hu, case.contrast) for case in manifest.cases}
    assert told["plain"] == (pytest.approx(12, rel=0.06), False)
    assert told["enhanced"] == (pytest.approx(12, rel=0.06), True)


WORKERS = """
import sys
from gpu_synth.prepare.run import prepare
if __name__ == "__main__":
    folder, out = sys.argv[1:]
    prepare(images=folder + "/images", labels=folder + "/labels", out=out, spacing_mm=(0.5, 0.5, 0.5), workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a process's children in /proc")
def test_workers_end_with_a_killed_run_and_the_next_gives_the_same_files(tmp_path):
    for name in "abcd":
        write_case(tmp_path, name)
    (tmp_path / "run.py").write_text(WORKERS)

    def begin(out: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, tmp_path / "run.py", tmp_path, tmp_path / out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert begin("whole").wait() == 0
    want = files(tmp_path / "whole")
    killed = begin("out")
    while not list((tmp_path / "out").glob("*/*")):  # both workers are at work
        assert killed.poll() is None
        time.sleep(0.005)
    children = [int(pid) for pid in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    until = time.monotonic() + 20
    while any(_runs(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(children) >= 2
    assert not any(_runs(pid) for pid in children), "a worker that lives on would write into the next run's files"
    assert 0 < len(files(tmp_path / "out")) < len(want)
    assert begin("out").wait() == 0
    assert files(tmp_path / "out") == want


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

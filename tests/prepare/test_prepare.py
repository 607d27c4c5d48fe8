import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ct_files import CENTRE_MM, ORIENTATIONS, RADII_MM, SHAPE, SPACING_MM, affine, ct, organ, positions_mm, real_ct, write, write_case

from gpu_synth.manifest import load_case, load_manifest, read_patch
from gpu_synth.prepare.run import prepare

ORGAN_ML = 4 / 3 * np.pi * RADII_MM.prod() / 1000


def run(folder: Path, **how):
    return prepare(images=folder / "images", labels=folder / "labels", out=folder / "out", **how)


def affine_of(manifest, case):
    return nib.load(manifest.root / case.image).affine


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (1.4, 1.1, 3.0), (2.0, 3.0, 2.5)])
def test_image_and_label_lie_where_they_should(tmp_path, spacing_mm):
    write_case(tmp_path, orientation="PLI")
    manifest = run(tmp_path, spacing_mm=spacing_mm)
    image, label, spacing = load_case(manifest, "a")
    assert spacing == spacing_mm
    assert (image.dtype, label.dtype) == (torch.int16, torch.uint8)
    assert image.shape == label.shape == (1, *manifest.cases[0].shape)
    at = affine_of(manifest, manifest.cases[0])
    assert nib.aff2axcodes(at) == ("R", "A", "S")
    inside = label[0].numpy() > 0
    where = positions_mm(inside.shape, at)[inside]
    np.testing.assert_allclose(where.mean(0), CENTRE_MM, atol=0.5)
    assert inside.sum() * np.prod(spacing_mm) / 1000 == pytest.approx(ORGAN_ML, rel=0.05)
    hu = 60 + (where - CENTRE_MM) @ [1.0, -2.0, 0.5]
    core = np.linalg.norm((where - CENTRE_MM) / RADII_MM, axis=1) < 0.7
    np.testing.assert_allclose(image[0].numpy()[inside][core], hu[core], atol=1.1)  # rounded twice


def test_every_orientation_gives_the_same_case(tmp_path):
    for orientation in ORIENTATIONS:
        write_case(tmp_path, orientation, orientation=orientation)
    manifest = run(tmp_path, spacing_mm=(2.0, 1.5, 3.0))
    assert [case.name for case in manifest.cases] == sorted(ORIENTATIONS)
    first = load_case(manifest, "RAS")
    for case in manifest.cases:
        image, label, _ = load_case(manifest, case)
        assert (image - first[0]).abs().max() <= 1, case.name  # the order of float32 sums may tip a rounding
        assert torch.equal(label, first[1]), case.name


def test_the_manifest_tells_what_is_there(tmp_path):
    write_case(tmp_path)
    assert run(tmp_path) == load_manifest(tmp_path / "out") == load_manifest(tmp_path / "out" / "manifest.json")
    manifest = load_manifest(tmp_path / "out")
    (case,) = manifest.cases
    image, label, _ = load_case(manifest, 0)
    at = np.argwhere(label[0].numpy() > 0)
    assert case.shape == (58, 41, 69)
    assert case.organ_bbox_vox == (tuple(at.min(0).tolist()), tuple((at.max(0) + 1).tolist()))
    assert case.organ_ml == pytest.approx(len(at) / 1000)
    assert case.organ_mean_hu == pytest.approx(float(image[label > 0].float().mean()), abs=0.01)
    assert case.organ_sd_hu == pytest.approx(float(image[label > 0].float().std(correction=0)), abs=0.01)
    assert (case.components, case.tumor_ml, case.warnings, manifest.refused) == (1, 0.0, (), ())
    assert case.source_image == str(tmp_path / "images" / "a.nii.gz")
    assert Path(case.source_label).is_file()
    for which in ("b", 1, -1):
        with pytest.raises(ValueError, match=r"case must be one of \['a'\]"):
            load_case(manifest, which)


def test_a_patch_is_the_crop_of_its_case_and_air_outside(tmp_path):
    write_case(tmp_path)
    manifest = run(tmp_path)
    image, label, _ = load_case(manifest, "a")
    padded = torch.nn.functional.pad(image, (30,) * 6, value=-1024), torch.nn.functional.pad(label, (30,) * 6, value=0)
    for start, size in [((3, 5, 7), (11, 12, 13)), ((-9, 20, 60), (30, 30, 30)), ((-5, -6, -7), (70, 60, 80)), ((60, 0, 0), (8, 8, 8))]:
        crop = (slice(None), *(slice(30 + s, 30 + s + n) for s, n in zip(start, size, strict=True)))
        got = read_patch(manifest, "a", start, size)
        assert all(torch.equal(g, p[crop]) and g.is_contiguous() for g, p in zip(got, padded, strict=True)), (start, size)


def test_one_bad_case_does_not_stop_the_others(tmp_path, capsys):
    def case(name, image=None, label=None, at=None, label_at=None):
        write(tmp_path / "images" / f"{name}.nii.gz", ct() if image is None else image, at=at)
        write(tmp_path / "labels" / f"{name}.nii.gz", organ() if label is None else label, at=label_at)

    case("good")
    case("empty", label=np.zeros(SHAPE, np.uint8))
    case("value", label=organ() * 255)
    case("share", label=organ() * np.float32(0.6))
    case("minus", label=-organ().astype(np.int16))
    case("nan", label=np.where(organ(), np.nan, 0).astype(np.float32))
    case("elsewhere", label_at=affine(origin_mm=(900, 900, 900)))
    case("window", image=np.clip((ct() + 160) / 400, 0, 1).astype(np.float32))
    case("series", image=np.stack([ct(), ct()], -1))
    case("speck", label=((np.abs(positions_mm() - CENTRE_MM) < (0.7, 0.6, 1.6)).all(-1)).astype(np.uint8))
    case("cut")
    path = tmp_path / "images" / "cut.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    manifest = run(tmp_path, spacing_mm=(3, 3, 3))
    assert [c.name for c in manifest.cases] == ["good"]
    reasons = dict(manifest.refused)
    label_faults = {
        "empty": "hold organ label 1, got only 0",
        "value": "got only 0, 255",
        "share": "whole numbers",
        "minus": "whole numbers",
    }
    label_faults |= {"nan": "whole numbers", "elsewhere": "must overlap", "speck": "vanishes at 3×3×3 mm"}
    image_faults = {"window": "must be a CT in HU", "series": "one volume", "cut": "damaged"}
    assert reasons.keys() == label_faults.keys() | image_faults.keys()
    for faults, folder in ((label_faults, "labels"), (image_faults, "images")):
        for name, why in faults.items():
            assert reasons[name].startswith(str(tmp_path / folder / f"{name}.nii.gz")), name
            assert why in reasons[name]
    assert load_manifest(tmp_path / "out") == manifest
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good", "manifest.json", "sheet.png"]
    assert "1 cases in" in (said := capsys.readouterr().out)
    assert said.count("refused") == len(reasons) + 1


def test_oddities_are_handled_and_told(tmp_path):
    def case(name, image=None, label=None, label_at=None):
        write(tmp_path / "images" / f"{name}.nii", ct() if image is None else image)
        return write(tmp_path / "labels" / f"{name}.nii", organ() if label is None else label, at=label_at)

    two = organ()
    two[2:4, 2:4, 2:4] = 1
    case("two", label=two)
    cut = organ()
    cut[:, :, :2], cut[:, :, -1:], cut[:, -1] = cut[:, :, 13:14], 0, cut[:, 13]
    case("cut", label=cut)
    holes = ct().astype(np.float32)
    holes[15, 10, 10:13] = np.nan
    holes[:, -3:] = -3024
    case("holes", image=holes)
    case("float", label=organ().astype(np.float64) * 0.99999)
    other = affine((2.0, 2.0, 2.0), CENTRE_MM - 40)
    case("grid", label=organ((40, 40, 40), other), label_at=other)
    far = affine(origin_mm=CENTRE_MM - [30.0, 15.0, 0.0])
    case("half", label=organ(at=far), label_at=far)
    case("more", label=organ() + 4 * (positions_mm()[..., 0] > CENTRE_MM[0]) * organ())
    case("lung", image=ct() - 900 * organ().astype(np.int16))
    path = case("lost")
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj).copy(), None)
    image.set_sform(None, code=0)
    nib.save(image, path)
    manifest = run(tmp_path, spacing_mm=(1.5, 1.5, 1.5))
    assert not manifest.refused
    told = {c.name: "; ".join(c.warnings) for c in manifest.cases}
    said = {
        "two": "2 components",
        "cut": "cut by the scan's front and bottom",
        "holes": "3 NaN voxels",
        "float": "",
        "grid": "another grid",
    }
    said |= {"half": "another grid", "more": "mask values 5 are neither", "lung": "no soft tissue", "lost": "the image's is taken"}
    assert told.keys() == said.keys()
    for name, words in said.items():
        assert words in told[name], name
        assert told[name] or not words
    assert not told["float"]
    assert "padding" in told["holes"]
    good, grid, lost = (load_case(manifest, name)[1] for name in ("float", "grid", "lost"))
    assert torch.equal(lost, good)
    assert 2 * (grid & good).sum() / (grid.sum() + good.sum()) > 0.96
    holes, _, _ = load_case(manifest, "holes")
    assert -1024 <= holes.min() <= holes.max() < 300
    assert manifest.case("two").components == 2


def test_a_scan_without_a_place_takes_a_mask_of_its_own_grid_voxel_by_voxel(tmp_path):
    for name in ("good", "lost", "other"):
        write_case(tmp_path, name)
    for name in ("lost", "other"):
        path = tmp_path / "images" / f"{name}.nii.gz"
        image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj)[: 41 if name == "lost" else 40], None)
        image.header.set_zooms(SPACING_MM)
        nib.save(image, path)
    manifest = run(tmp_path, spacing_mm=SPACING_MM)
    lost, good = manifest.case("lost"), manifest.case("good")
    assert (lost.organ_mean_hu, lost.organ_sd_hu, lost.organ_ml) == (good.organ_mean_hu, good.organ_sd_hu, good.organ_ml)
    assert any("the image's header gives no position (sform and qform codes are 0): the mask is taken" in note for note in lost.warnings)
    ((name, why),) = manifest.refused
    assert (name, why) == (
        "other",
        f"{tmp_path}/images/other.nii.gz: header must give position and orientation, got sform and qform codes 0; "
        "save it on the grid of its mask",
    )


def test_a_tumour_that_is_asked_for_becomes_2(tmp_path):
    far = np.linalg.norm(positions_mm() - CENTRE_MM, axis=-1)
    label = organ() + (far < 8).astype(np.uint8) + 6 * (far < 4)
    write(tmp_path / "images" / "a.nii", ct())
    write(tmp_path / "labels" / "a.nii", label)
    manifest = run(tmp_path, organ_labels=(1,), tumor_labels=(2, 8))
    _, prepared, _ = load_case(manifest, 0)
    assert prepared.unique().tolist() == [0, 1, 2]
    case = manifest.cases[0]
    assert case.tumor_ml == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.1)
    assert case.organ_ml == pytest.approx(ORGAN_ML, rel=0.05)
    assert not case.warnings
    assert run(tmp_path, organ_labels=(1, 2, 8)).cases[0].tumor_ml == 0


def test_a_list_may_lack_a_label_or_a_file(tmp_path):
    write_case(tmp_path)
    entries = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}, {"image": "images/b.nii.gz"}]
    entries += [{"image": "images/gone.nii.gz", "label": "labels/a.nii.gz"}]
    write(tmp_path / "images" / "b.nii.gz", ct())
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    manifest = prepare(datalist=tmp_path / "dataset.json", out=tmp_path / "out")
    assert [case.name for case in manifest.cases] == ["a"]
    assert [name for name, _ in manifest.refused] == ["b", "gone"]
    assert "b.nii.gz: has no label" in manifest.refused[0][1]
    assert "gone.nii.gz: no such file" in manifest.refused[1][1]


@pytest.mark.parametrize(
    "wrong",
    [{"spacing_mm": s} for s in [(1, 1), (0, 1, 1), (1, 1, -1), (1, 1, float("nan"))]]
    + [{"organ_labels": ()}, {"organ_labels": (0,)}, {"organ_labels": (1,), "tumor_labels": (1,)}, {"organ_labels": (70000,)}],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, wrong):
    write_case(tmp_path)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        run(tmp_path, **wrong)
    assert not (tmp_path / "out").exists()


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*.nii"))}


def test_a_second_run_does_only_what_has_changed(tmp_path):
    for name in "abc":
        write_case(tmp_path, name)
    run(tmp_path)
    before = stamps(tmp_path / "out")
    again = run(tmp_path)
    assert stamps(tmp_path / "out") == before
    write(tmp_path / "images" / "b.nii.gz", ct() + 10)
    (tmp_path / "out" / "c" / "label.nii").write_bytes(b"damaged")
    newer = run(tmp_path)
    after = stamps(tmp_path / "out")
    assert {name for name in before if after[name] != before[name]} == {f"{c}/{f}.nii" for c in "bc" for f in ("image", "label")}
    assert newer.case("b").organ_mean_hu == pytest.approx(again.case("b").organ_mean_hu + 10, abs=0.01)
    run(tmp_path, spacing_mm=(2, 2, 2))
    assert load_case(load_manifest(tmp_path / "out"), "a")[2] == (2, 2, 2)
    assert all(stamps(tmp_path / "out")[name] != after[name] for name in after)
    write(tmp_path / "labels" / "a.nii.gz", np.zeros(SHAPE, np.uint8))
    assert [name for name, _ in run(tmp_path, spacing_mm=(2, 2, 2)).refused] == ["a"]
    assert not list((tmp_path / "out" / "a").iterdir())


def test_worker_processes_give_the_same_files(tmp_path):
    for name in "abc":
        write_case(tmp_path, name)
    (tmp_path / "labels" / "b.nii.gz").write_bytes(b"")
    alone = run(tmp_path)
    shared = prepare(images=tmp_path / "images", labels=tmp_path / "labels", out=tmp_path / "other", workers=2)
    assert (shared.cases, shared.refused) == (alone.cases, alone.refused)
    for path in (tmp_path / "out").rglob("*.nii"):
        assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "out")).read_bytes()


def test_what_is_not_prepared_or_was_altered_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder with manifest\.json"):
        load_manifest(tmp_path)
    write_case(tmp_path)
    manifest = run(tmp_path)
    (tmp_path / "out" / "a" / "label.nii").unlink()
    with pytest.raises(ValueError, match=r"label\.nii must be the file"):
        load_case(manifest, 0)
    write(tmp_path / "out" / "a" / "label.nii", organ())
    with pytest.raises(ValueError, match="as its manifest says"):
        load_case(manifest, 0)
    for content in ("{", "[]", '{"format": 99}', '{"format": 1}'):
        (tmp_path / "out" / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match="manifest must be"):
            load_manifest(tmp_path / "out")


# One process imports once; each line forks a child that prepares into a folder and is killed after some seconds.
FORKS = """
import os, signal, sys, time
from gpu_synth.prepare.run import prepare
folder, out_of_sight = sys.argv[1], os.open(os.devnull, os.O_WRONLY)
for line in sys.stdin:
    out, seconds = line.split()
    begin = time.monotonic()
    if (child := os.fork()) == 0:
        os.dup2(out_of_sight, 1), os.dup2(out_of_sight, 2)
        prepare(images=folder + "/images", labels=folder + "/labels", out=out)
        os._exit(0)
    if seconds != "never":
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(status, time.monotonic() - begin, flush=True)
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_any_moment_leaves_whole_files_and_is_taken_up_again(tmp_path):
    for name in "abcd":
        write_case(tmp_path, name)
    command = [sys.executable, "-c", FORKS, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as server:

        def prepared(out: str, seconds: float | str) -> tuple[int, float]:
            server.stdin.write(f"{tmp_path / out} {seconds}\n")
            server.stdin.flush()
            status, elapsed = server.stdout.readline().split()
            return int(status), float(elapsed)

        whole_run = min(prepared(out, "never")[1] for out in ("first", "whole"))
        want = files(tmp_path / "whole")
        assert len(want) == 18  # four cases of four files, the sheet and the manifest
        moments = np.random.default_rng(0).uniform(0, whole_run, 30)
        killed = interrupted = 0
        for attempt, moment in enumerate(moments):
            out = f"out-{attempt // 3}"  # two of three runs find what another has left
            killed += prepared(out, moment)[0] == signal.SIGKILL
            left = (
                {name: content for name, content in files(tmp_path / out).items() if not name.endswith(".partial")}
                if (tmp_path / out).exists()
                else {}
            )
            assert all(content == want[name] for name, content in left.items())
            assert "manifest.json" not in left or len(left) == len(want)
            assert all({f"{c}/image.nii", f"{c}/label.nii"} <= left.keys() for c in "abcd" if f"{c}/case.json" in left)
            interrupted += 0 < len(left) < len(want)
        assert killed > 5, "nothing was tested"
        assert interrupted > 2, "nothing was tested"
        for n in range(10):
            assert prepared(f"out-{n}", "never")[0] == 0
            assert files(tmp_path / f"out-{n}") == want


@pytest.mark.real_ct
@pytest.mark.parametrize(
    ("name", "organ_ml", "mean_hu", "told"),
    [
        ("ccth_a01", 1488, 58, "padding"),
        ("totalseg_example", 1126, 44, "cut by the scan's top"),
        ("chaos_ctset3", 1418, 141, "cut by the scan's bottom"),
    ],
)
def test_real_ct(tmp_path, name, organ_ml, mean_hu, told):
    folder = real_ct()
    manifest = prepare(
        images=folder / f"{name}_ct.nii.gz", labels=folder / f"{name}_liver.nii.gz", out=tmp_path, spacing_mm=(3.0, 3.0, 3.0)
    )
    (case,) = manifest.cases
    assert case.name == name
    assert case.spacing_mm == (3, 3, 3)
    assert case.organ_ml == pytest.approx(organ_ml, rel=0.03)
    assert case.organ_mean_hu == pytest.approx(mean_hu, abs=3)  # voxels of 3 mm on the surface hold some of its surroundings
    assert told in "; ".join(case.warnings)
    image, label, _ = load_case(manifest, name)
    at = affine_of(manifest, case)
    assert nib.aff2axcodes(at) == ("R", "A", "S")
    body = positions_mm(case.shape, at)[image[0].numpy() > -200]
    liver = positions_mm(case.shape, at)[label[0].numpy() > 0]
    assert liver[:, 0].mean() > body[:, 0].mean() + 20  # the liver lies on the right


@pytest.mark.real_ct
def test_real_ct_by_globs(tmp_path):
    folder = real_ct()
    manifest = prepare(images=f"{folder}/*_ct.nii.gz", labels=f"{folder}/*_liver.nii.gz", out=tmp_path, spacing_mm=(6.0, 6.0, 6.0))
    assert [case.name for case in manifest.cases] == ["ccth_a01", "chaos_ctset3", "totalseg_example"]
    assert not manifest.refused

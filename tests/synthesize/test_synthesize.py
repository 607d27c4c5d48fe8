"""`gpu-synth synthesize`: what is written, what is kept, edited plans, and what is refused before anything is written."""

import errno
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from ct_files import SHAPE, ct, organ, real_ct, write, write_case
from emulator import emulated
from made_volumes import SMALL, edited, files, run, scans, voxels

from gpu_synth.cli import main
from gpu_synth.exits import Exit
from gpu_synth.manifest import load_manifest
from gpu_synth.synthesize.ranks import Rank, find_device, find_rank
from gpu_synth.synthesize.run import synthesize
from gpu_synth.synthesize.volume import FOLDERS, claimed, read_record, uid_of


def test_each_variant_of_each_case_has_its_files(tmp_path):
    scans(tmp_path, "a", "b")
    result = run(tmp_path, variants=2)
    names = ["a_v0", "a_v1", "b_v0", "b_v1"]
    assert list(result.made) == names
    assert (result.kept, result.refused, result.card) == ((), (), tmp_path / "out" / "data-card.md")
    for folder in FOLDERS:
        assert sorted(path.name.split(".")[0] for path in (tmp_path / "out" / folder).iterdir()) == names
    for name in names:
        image, label, number = (voxels(tmp_path / "out" / folder / f"{name}.nii.gz") for folder in FOLDERS[:3])
        healthy, mask = (voxels(tmp_path / folder / f"{name[0]}.nii.gz") for folder in FOLDERS[:2])
        record = read_record(tmp_path / "out", name)
        assert (image.dtype, label.dtype, number.dtype) == (healthy.dtype, mask.dtype, np.uint8)
        assert record["uid"] == uid_of(name[0], int(name[-1]))
        assert record["changed_vox"] == (image != healthy).sum() > 0
        assert np.array_equal(number > 0, label == 2)
        assert [lesion["lesion"] for lesion in record["lesions"]] == [n for n in np.unique(number) if n]
        for lesion in record["lesions"]:
            inside, came = number == lesion["lesion"], lesion["came"]
            assert came["volume_mm3"] == pytest.approx(inside.sum() * 1.4 * 1.1 * 3.0, rel=1e-4)
            assert came["centre_vox"] == pytest.approx(np.argwhere(inside).mean(0), abs=0.01)  # in the file, whatever its axes are
            affine = nib.load(tmp_path / "images" / f"{name[0]}.nii.gz").affine
            assert came["centre_mm"] == pytest.approx(nib.affines.apply_affine(affine, came["centre_vox"]), abs=0.01)
            assert np.linalg.norm((np.array(lesion["asked"]["centre_vox"]) - came["centre_vox"]) * (1.4, 1.1, 3.0)) < 8
        assert record["tumor_ml"] == pytest.approx((label == 2).sum() * 1.4 * 1.1 * 3.0 / 1000, rel=1e-3)
    tumors = [voxels(tmp_path / "out" / "labels" / f"{name}.nii.gz") == 2 for name in names]
    assert not np.array_equal(tumors[0], tumors[1])


def test_the_same_seed_gives_the_same_bytes_in_any_company(tmp_path):
    scans(tmp_path, "a", "b", "c")
    run(tmp_path, variants=2)
    want = files(tmp_path / "out")
    entries = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ca"]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    run(tmp_path, "listed", datalist=str(tmp_path / "list.json"), variants=1)
    run(tmp_path, "one", images=f"{tmp_path}/images/b.nii.gz", labels=f"{tmp_path}/labels/b.nii.gz", variants=2)
    for out, volumes in (("listed", 2), ("one", 2)):
        got = {name: content for name, content in files(tmp_path / out).items() if not name.startswith("data-card")}
        assert len(got) == 5 * volumes
        assert all(want[name] == content for name, content in got.items())
    run(tmp_path, "other", seed=1)
    assert files(tmp_path / "other")["images/a_v0.nii.gz"] != want["images/a_v0.nii.gz"]


def test_only_what_changed_is_made_again(tmp_path):
    scans(tmp_path, "a", "b", "c")
    run(tmp_path)
    want = files(tmp_path / "out")
    assert run(tmp_path).kept == ("a_v0", "b_v0", "c_v0")
    (tmp_path / "images" / "a.nii.gz").touch()
    (tmp_path / "out" / "labels" / "c_v0.nii.gz").write_bytes(b"damaged")
    (tmp_path / "out" / "records" / "b_v0.json").write_text("{")
    again = run(tmp_path)
    assert (again.made, again.kept) == (("b_v0", "c_v0"), ("a_v0",))
    assert files(tmp_path / "out") == want
    write(tmp_path / "images" / "a.nii.gz", ct() + np.int16(5))
    assert run(tmp_path).made == ("a_v0",)
    assert run(tmp_path, overrides={**SMALL, "cnr_floor": 2.0}).made == ("a_v0", "b_v0", "c_v0")
    assert run(tmp_path, overrides={**SMALL, "cnr_floor": 2.0}, tumor_label=5).made == ("a_v0", "b_v0", "c_v0")
    assert 5 in voxels(tmp_path / "out" / "labels" / "a_v0.nii.gz")
    (tmp_path / "labels" / "a.nii.gz").write_bytes(b"")
    ((name, why),) = run(tmp_path, overrides={**SMALL, "cnr_floor": 2.0}, tumor_label=5).refused
    assert name == "a_v0"
    assert "labels/a.nii.gz" in why
    assert [path for path in files(tmp_path / "out") if "a_v0" in path] == ["records/a_v0.json"], "what is no longer true is gone"
    assert f"a_v0: {why}" in (tmp_path / "out" / "data-card.md").read_text()


def test_one_bad_case_does_not_stop_the_others(tmp_path, capsys):
    scans(tmp_path, "good")
    write_case(tmp_path, "tumour")
    mask = organ()
    mask[20, 18, 11] = 2
    write(tmp_path / "labels" / "tumour.nii.gz", mask)
    write_case(tmp_path, "tiny")
    mask = np.zeros(SHAPE, np.uint8)
    mask[20, 18, 11] = 1
    write(tmp_path / "labels" / "tiny.nii.gz", mask)
    arguments = ["synthesize", "--images", f"{tmp_path}/images", "--labels", f"{tmp_path}/labels", "--out", f"{tmp_path}/out"]
    assert main([*arguments, "--overrides.size_mm", "[3, 5, 10, 20, 44]"]) == 1
    said = capsys.readouterr().out
    assert "1 volumes in" in said
    assert "refused tiny_v0" in said
    assert "none found a place" in said
    assert "--real_tumor_labels 2" in said
    assert main([*arguments, "--overrides.size_mm", "[3, 5, 10, 20, 44]", "--real_tumor_labels", "2"]) == 1
    assert "tumour_v0" not in capsys.readouterr().out.replace("good", ""), "the mend that it names works"


def test_kernels_write_what_torch_writes(tmp_path, monkeypatch):
    scans(tmp_path, "a", "b")
    run(tmp_path, backend="torch")
    emulated(monkeypatch, "forward")
    run(tmp_path, "kernels", backend="cupy", device="cpu")
    for name in ("a_v0", "b_v0"):
        ours, theirs = ([voxels(tmp_path / out / folder / f"{name}.nii.gz") for folder in FOLDERS[:3]] for out in ("kernels", "out"))
        assert np.abs(ours[0].astype(int) - theirs[0]).max() <= 1, "rounded from HU that agree within 0.05"
        assert (ours[0] != theirs[0]).mean() < 1e-3
        assert all(np.count_nonzero(x != y) <= 2 for x, y in zip(ours[1:], theirs[1:], strict=True))
    assert read_record(tmp_path / "kernels", "a_v0")["recipe"]["backend"] == "cupy"
    assert run(tmp_path, "kernels", backend="torch").made == ("a_v0", "b_v0"), "another backend is another recipe"


def test_a_full_disk_ends_the_run_by_name_and_the_rest_is_taken_up_again(tmp_path, monkeypatch, capsys):
    scans(tmp_path, "a", "b")
    run(tmp_path, "want")
    fsync, left = os.fsync, [6 + 3]  # the first volume and its plan, packed; then a plan and two files of the second

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    where = [f"--{folder}={tmp_path}/{folder}" for folder in FOLDERS[:2]]
    assert main(["synthesize", *where, f"--out={tmp_path}/out", f"--overrides.size_prob={list(SMALL['size_prob'])}"]) == Exit.FAILED
    assert f"No space left on device: '{tmp_path}/out/instances/b_v0.nii.gz'" in capsys.readouterr().err
    monkeypatch.undo()
    assert not list((tmp_path / "out").rglob("*.partial"))
    again = run(tmp_path)
    assert (again.made, again.kept) == (("b_v0",), ("a_v0",))
    assert files(tmp_path / "out") == files(tmp_path / "want")


def test_a_volume_that_another_run_is_making_is_left_to_it(tmp_path):
    scans(tmp_path, "a", "b")
    run(tmp_path, seed=1)
    before = files(tmp_path / "out")
    with claimed(tmp_path / "out", "a_v0"), pytest.raises(ValueError, match=r"one run at a time, .* another is making a_v0; wait"):
        run(tmp_path)
    assert {name: content for name, content in files(tmp_path / "out").items() if not name.endswith(".partial")} == before
    assert run(tmp_path).made == ("a_v0", "b_v0")
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_no_card_tells_of_a_mixture_while_another_rank_is_at_work(tmp_path):
    scans(tmp_path, "a", "b")
    run(tmp_path, seed=1)
    assert run(tmp_path, rank=0, world_size=2).card is None, "b_v0 is still of the other seed"
    assert run(tmp_path, rank=1, world_size=2).card is not None


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path, monkeypatch):
    scans(tmp_path, "a", "b")

    def refuse(paths):
        if paths[0].name == "a.nii.gz":
            raise PermissionError(13, "Permission denied", str(paths[0]))
        return "0"

    monkeypatch.setattr("gpu_synth.synthesize.volume.content_sha256", refuse)
    result = run(tmp_path)
    assert result.made == ("b_v0",)
    assert "images/a.nii.gz: cannot be read (Permission denied)" in dict(result.refused)["a_v0"]


def test_a_prepared_folder_is_a_source(tmp_path):
    scans(tmp_path, "a")
    assert main(["prepare", "--images", f"{tmp_path}/images", "--labels", f"{tmp_path}/labels", "--out", f"{tmp_path}/cache"]) == 0
    assert run(tmp_path, data_dir=f"{tmp_path}/cache").made == ("a_v0",)
    case = load_manifest(tmp_path / "cache").case("a")
    before, after = nib.load(tmp_path / "cache" / case.image), nib.load(tmp_path / "out" / "images" / "a_v0.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    assert 0 < (np.asarray(before.dataobj) != np.asarray(after.dataobj)).sum() < 0.5 * np.prod(before.shape)
    assert main(["prepare", "--images", f"{tmp_path}/out/images", "--labels", f"{tmp_path}/out/labels", *CACHE, f"{tmp_path}/again"]) == 0
    assert load_manifest(tmp_path / "again").cases[0].tumor_ml > 0


CACHE = ["--tumor_labels", "2", "--out"]


# ---- edited plans -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set of two cases, made."""
    folder = tmp_path_factory.mktemp("drawn")
    scans(folder, "a", "b")
    run(folder, overrides={**SMALL, "count": (4, 4), "cluster_prob": 0.0})
    return folder


def test_a_plan_rendered_again_is_the_same_volume(drawn, tmp_path):
    assert edited(drawn, tmp_path, lambda _: None).made == ("mine",)
    for folder in FOLDERS[:3]:
        want, got = (root / folder / name for root, name in ((drawn / "out", "b_v0.nii.gz"), (tmp_path / "edited", "mine.nii.gz")))
        assert got.read_bytes() == want.read_bytes()


def test_an_edited_plan_is_rendered_as_it_says(drawn, tmp_path):
    before = read_record(drawn / "out", "b_v0")["lesions"]
    first, second, *others = [lesion["lesion"] for lesion in before]

    def change(plan):
        lesions = {lesion["lesion"]: lesion for lesion in plan["lesions"]}
        lesions[first] |= {"contrast_hu": -60.0, "core_hu": 0.0, "rim_hu": 0.0}
        lesions[second]["centre_vox"] = [at + move for at, move in zip(lesions[second]["centre_vox"], (0, 2, 1), strict=True)]
        plan["lesions"] = [lesions[first], lesions[second]]

    edited(drawn, tmp_path, change)
    after = {lesion["lesion"]: lesion for lesion in read_record(tmp_path / "edited", "mine")["lesions"]}
    assert after.keys() == {first, second}
    assert others, "a lesion was taken out"
    assert after[first]["asked"]["contrast_hu"] == -60.0
    assert after[first]["came"]["mean_drop_hu"] > before[0]["came"]["mean_drop_hu"] + 5
    moved = np.subtract(after[second]["came"]["centre_vox"], before[1]["came"]["centre_vox"])
    assert moved == pytest.approx((0, 2, 1), abs=0.8)  # cut by the organ elsewhere
    written = json.loads((tmp_path / "edited" / "plans" / "mine.json").read_text())
    assert (written["case"], written["variant"]) == ("b", None)
    assert run(drawn, str(tmp_path / "edited"), plan=str(tmp_path / "mine.json")).kept == ("mine",)


WRONG = {
    "unknown field": (lambda p: p["lesions"][0].update(contrast=3), "did you mean 'contrast_hu'"),
    "no number": (lambda p: p["lesions"][0].update(contrast_hu="dark"), "contrast_hu of lesion 1 must be a number, got 'dark'"),
    "switch": (lambda p: p["lesions"][0].update(contrast_hu=True), "contrast_hu of lesion 1 must be a number, got True"),
    "two numbers": (lambda p: p["lesions"][0].update(centre_vox=[1, 2]), "centre_vox of lesion 1 must be 3 numbers"),
    "outside": (lambda p: p["lesions"][0].update(centre_vox=[1e4, 2, 3]), "must lie where the plan was made"),
    "below 0": (lambda p: p["lesions"][0].update(radius_mm=-2), "radius_mm must lie in (0, 1000], got -2"),
    "not finite": (lambda p: p["lesions"][0].update(contrast_hu=float("nan")), "contrast_hu must be a finite number, got nan"),
    "outline": (lambda p: p["lesions"][0].update(irregularity=0.5), "irregularity of lesion 1 must stay"),
    "kind": (lambda p: p["lesions"][0].update(kind="unheard of"), "kind of lesion 1 must stay"),
    "another lesion": (lambda p: p["lesions"].append({**p["lesions"][0], "lesion": 40}), "lesion must be one of"),
    "twice": (lambda p: p["lesions"].append(p["lesions"][0]), "each once, got 1"),
    "no list": (lambda p: p.update(lesions=3), "lesions must be a list of objects"),
    "uid": (lambda p: p.update(uid=3), "uid of a plan must stay"),
    "uid in words": (lambda p: p.update(uid="three"), "uid of a plan must stay as it was written, a whole number, got 'three'"),
    "scan field": (lambda p: p["scan"].update(noise=3), "did you mean 'noise_hu'"),
    "grid": (lambda p: p["grid"].update(shape_vox=[1, 2, 3]), "must be of this scan"),
    "packed": (lambda p: p.update(exact="abc"), "exact must be left as it was written"),
    "missing": (lambda p: p.pop("exact"), "plan must have 'exact'"),
    "format": (lambda p: p.update(format="x"), "must be JSON of format"),
    "case": (lambda p: p.update(case="z"), "images must hold the plan's case 'z', got a, b"),
}


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_plan_is_refused_and_nothing_written(drawn, tmp_path, wrong):
    change, says = WRONG[wrong]
    with pytest.raises(ValueError, match="must") as error:
        edited(drawn, tmp_path, change)
    assert says in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_a_plan_does_not_take_the_place_of_a_drawn_volume(drawn):
    with pytest.raises(ValueError, match=r"copy it: cp .*a_v0.json a_v0-edited.json"):
        run(drawn, plan=str(drawn / "out" / "plans" / "a_v0.json"))


# ---- arguments --------------------------------------------------------------------------------------------------------------------------

CASES = ["--images", "images", "--labels", "labels", "--out", "out"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "out"], "images and labels, or datalist alone, must be given"),
        (["--images", "nowhere", "--labels", "labels", "--out", "out"], "images must be a folder of .nii"),
        ([*CASES, "--data_dir", "images"], "data_dir must be given alone"),
        ([*CASES[:4], "--out", "images/a.nii.gz"], "out must be a folder, got images/a.nii.gz, which is a file"),
        ([*CASES, "--preset", "livr"], "did you mean 'liver'"),
        ([*CASES, "--overrides.cnr", "3"], "preset field must be one of"),
        ([*CASES, "--overrides.size_prob", "[1, 1, 0, 0]"], "size_prob must add up to 1"),
        ([*CASES, "--variants", "0"], "variants must be 1 or more"),
        ([*CASES, "--overrides.curriculum_samples", "9"], "curriculum_samples must be left out, got 9; files are of no run"),
        ([*CASES, "--seed", str(2**64)], "seed must be an integer of 64 bits"),
        ([*CASES, "--organ_labels", "0"], "organ_labels must be whole numbers from 1"),
        ([*CASES, "--tumor_label", "1"], "tumor_label must be a whole number from 1 and none of organ_labels"),
        ([*CASES, "--real_tumor_labels", "1"], "none of them real_tumor_labels"),
        ([*CASES, "--device", "tpu"], "device must be auto, cpu, cuda"),
        ([*CASES, "--device", "meta"], "'meta' (meta is neither cpu nor cuda)"),
        ([*CASES, "--device", "cpu", "--backend", "cupy"], "backend 'cupy' must have CUDA tensors"),
        ([*CASES, "--backend", "jax"], "backend must be one of"),
        ([*CASES, "--rank", "0"], "rank and world_size must be given together"),
        ([*CASES, "--rank", "2", "--world_size", "2"], "ranks are 0 to 1"),
        ([*CASES, "--plan", "nowhere.json"], "plan must be a JSON file from plans"),
        ([*CASES, "--card"], "card must be given with out alone"),
        (["--out", "out", "--card"], "out must be a folder that gpu-synth synthesize wrote"),
        (["--images", "images", "--labels", "images", "--out", "out"], "images and labels must be different files"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[-2:]),
)
def test_wrong_arguments_are_one_line_and_nothing_is_written(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scans(tmp_path, "a")
    before = files(tmp_path)
    assert main(["synthesize", *arguments]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpu-synth: error:")]
    assert says in error
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_what_was_made_is_no_source_of_the_same_folder(tmp_path):
    scans(tmp_path, "a")
    run(tmp_path)
    shutil.copytree(tmp_path / "out" / "labels", tmp_path / "masks")
    with pytest.raises(ValueError, match="out must be another folder than the scans'"):
        synthesize(images=f"{tmp_path}/out/images", labels=f"{tmp_path}/masks", out=f"{tmp_path}/out", real_tumor_labels=(2,))


def test_ranks_are_what_options_torchrun_or_slurm_say():
    torchrun, slurm = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}
    assert find_rank(None, None, {}) == Rank()
    assert find_rank(None, None, {**torchrun, **slurm}) == Rank(1, 4, 0, "torchrun")
    assert find_rank(None, None, {**slurm, "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}) == Rank(2, 3, 1, "SLURM")
    assert find_rank(None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Rank(), "a batch script's own process does all of the work"
    assert find_rank(0, 1, torchrun) == Rank(0, 1, 0, "options")
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE must be whole numbers"):
        find_rank(None, None, {"RANK": "x", "WORLD_SIZE": "2"})
    for world in range(1, 9):
        parts = [Rank(number, world).share(range(7)) for number in range(world)]
        assert [item for part in parts for item in part] == list(range(7))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert find_device("cpu", 3).type == "cpu"


@pytest.mark.real_ct
@pytest.mark.parametrize("preset", ["liver", "liver-hu2022"])
@pytest.mark.parametrize("name", ["ccth_a01", "totalseg_example", "chaos_ctset3"])
def test_real_ct(tmp_path, name, preset):
    image, label = real_ct() / f"{name}_ct.nii.gz", real_ct() / f"{name}_liver.nii.gz"
    synthesize(images=str(image), labels=str(label), out=str(tmp_path), preset=preset)
    for given, folder in ((image, "images"), (label, "labels")):
        before, after = nib.load(given), nib.load(tmp_path / folder / f"{name}_v0.nii.gz")
        assert np.array_equal(before.affine, after.affine)
        for field in before.header:
            if field != "vox_offset":
                assert before.header[field].tobytes() == after.header[field].tobytes(), field
    hu, new, mask, new_mask, number = map(
        voxels, (image, tmp_path / f"images/{name}_v0.nii.gz", label, *(tmp_path / f"{f}/{name}_v0.nii.gz" for f in FOLDERS[1:3]))
    )
    assert new.dtype == hu.dtype
    assert np.array_equal(number > 0, new_mask == 2)
    changed = new != hu
    if preset == "liver-hu2022":
        assert not changed[mask == 0].any()
        assert np.array_equal(new_mask > 0, mask > 0)
    else:  # mass effect moves what lies next to the organ, and no farther than lesions reach
        assert (mask[changed] == 1).mean() > 0.3
        assert np.count_nonzero((new_mask > 0) != (mask > 0)) < 0.05 * np.count_nonzero(mask)
    _same_to_itk(image, tmp_path / f"images/{name}_v0.nii.gz", hu, changed)
    record = read_record(tmp_path, f"{name}_v0")
    assert record["changed_vox"] == changed.sum() > 0
    for lesion in record["lesions"]:
        inside = number == lesion["lesion"]
        assert lesion["came"]["volume_mm3"] == pytest.approx(inside.sum() * np.prod(nib.load(image).header.get_zooms()[:3]), rel=1e-3)


def _same_to_itk(given, made, hu, changed):
    """Another reader sees the same grid and, where nothing changed, the same voxels."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    before, after = sitk.ReadImage(str(given)), sitk.ReadImage(str(made))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
        assert getattr(before, what)() == getattr(after, what)(), what
    voxels_of = sitk.GetArrayViewFromImage(after).T
    assert np.array_equal(voxels_of[~changed], hu[~changed])

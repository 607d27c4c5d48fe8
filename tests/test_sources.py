import json
from pathlib import Path

import pytest

from gpu_synth.sources import find_files, find_sources, match_names, stem


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, images: str, labels: str) -> list[tuple[str, str, str]]:
    cases = find_sources(str(folder / images), str(folder / labels))
    return [(name, str(image.relative_to(folder)), str(label.relative_to(folder))) for name, image, label in cases]


@pytest.mark.parametrize(
    ("image", "label", "name"),
    [
        ("liver_7", "liver_7", "liver_7"),
        ("FLARE_0001_0000", "FLARE_0001", "FLARE_0001"),
        ("case_0000", "case_0000", "case_0000"),
        ("case_0000_0000", "case_0000", "case_0000"),
        ("a01_ct", "a01_liver", "a01"),
        ("a01-CT", "a01_seg", "a01"),
        ("a01", "a01_mask", "a01"),
    ],
)
def test_folders_match_by_name_less_a_known_ending(tmp_path, image, label, name):
    touch(tmp_path, f"i/{image}.nii.gz", f"l/{label}.nii", "i/._x.nii.gz", "i/notes.txt", "i/deeper/y.nii")
    assert found(tmp_path, "i", "l") == [(name, f"i/{image}.nii.gz", f"l/{label}.nii")]


def test_a_name_that_ends_like_a_channel_is_not_confused_with_its_neighbours(tmp_path):
    touch(tmp_path, "i/c_0000_0000.nii", "i/c_0001_0000.nii", "l/c_0000.nii", "l/c_0001.nii")
    assert found(tmp_path, "i", "l") == [(f"c_000{n}", f"i/c_000{n}_0000.nii", f"l/c_000{n}.nii") for n in (0, 1)]


@pytest.mark.parametrize(
    ("images", "labels", "image", "label", "name"),
    [
        ("*_ct.nii.gz", "*_liver.nii.gz", "a[1]_ct.nii.gz", "a[1]_liver.nii.gz", "a[1]"),
        ("volume-*.nii", "segmentation-*.nii", "volume-12.nii", "segmentation-12.nii", "12"),
        ("*/ct.nii.gz", "*/segmentations/liver.nii.gz", "s01/ct.nii.gz", "s01/segmentations/liver.nii.gz", "s01"),
        ("**/img*.nii", "**/label*.nii", "x/y/img3.nii", "x/y/label3.nii", "x_y_3"),
        ("i?/[ab]*.nii", "l?/[ab]*.nii", "i1/a7.nii", "l1/a7.nii", "1_a_7"),
        ("i/*", "l/*", "i/q_0000.nii.gz", "l/q.nii.gz", "q"),
    ],
)
def test_in_globs_the_name_is_what_the_wildcards_stand_for(tmp_path, images, labels, image, label, name):
    touch(tmp_path, image, label)
    assert found(tmp_path, images, labels) == [(name, image, label)]


def test_two_single_files_match_when_named_alike(tmp_path):
    touch(tmp_path, "a_ct.nii", "a_liver.nii")
    assert found(tmp_path, "a_ct.nii", "a_liver.nii") == [("a", "a_ct.nii", "a_liver.nii")]


def test_all_unmatched_and_ambiguous_names_are_listed(tmp_path):
    touch(tmp_path, "i/good.nii", "i/lonely.nii", "i/two.nii", "i/two.nii.gz", "l/good.nii", "l/two.nii", "l/spare_seg.nii")
    with pytest.raises(ValueError, match="must match one to one") as error:
        find_sources(tmp_path / "i", tmp_path / "l")
    lines = str(error.value).splitlines()
    assert lines[1].endswith(": lonely.nii, two.nii, two.nii.gz")
    assert set(lines[2].split(": ")[1].split(", ")) == {"two.nii", "spare_seg.nii"}
    assert "*_ct.nii.gz" in lines[-1]


def test_one_folder_for_both_asks_for_globs(tmp_path):
    touch(tmp_path, "a_ct.nii", "a_liver.nii", "b_ct.nii", "b_liver.nii")
    with pytest.raises(ValueError, match=r"different files, got a_ct\.nii and 3 more as both; .* globs"):
        find_sources(tmp_path, tmp_path)


@pytest.mark.parametrize("where", ["nowhere", "empty", "*.nii"])
def test_nothing_found_is_an_error(tmp_path, where):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="images must be a folder"):
        find_sources(str(tmp_path / where), tmp_path)


@pytest.mark.parametrize("given", [{}, {"images": "a"}, {"labels": "a"}, {"images": "a", "labels": "b", "datalist": "c"}])
def test_folders_or_a_list_must_be_given(given):
    with pytest.raises(ValueError, match="images and labels, or datalist alone"):
        find_sources(**given)


def write_list(folder: Path, content: object) -> Path:
    (folder / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "dataset.json"


def test_a_decathlon_list_is_read_relative_to_itself(tmp_path):
    entries = [{"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"}, {"image": "/data/liver_0.nii.gz"}]
    assert find_sources(datalist=write_list(tmp_path, {"training": entries, "test": ["./imagesTs/liver_9.nii.gz"]})) == [
        ("liver_1", tmp_path / "imagesTr/liver_1.nii.gz", tmp_path / "labelsTr/liver_1.nii.gz"),
        ("liver_0", Path("/data/liver_0.nii.gz"), None),
    ]


def test_lists_of_one_folder_a_case_take_the_folder_into_the_name(tmp_path):
    entries = [{"image": f"case_{n}/imaging.nii.gz", "label": f"case_{n}/segmentation.nii.gz"} for n in range(2)]
    assert [case.name for case in find_sources(datalist=write_list(tmp_path, {"training": entries}))] == [
        "case_0_imaging",
        "case_1_imaging",
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "must hold"),
        ([], "must hold"),
        ({"name": "x", "numTraining": 3}, "nnU-Net"),
        ({"training": ["a.nii"]}, "must hold"),
        ({"training": [{"label": "a.nii"}]}, "must hold"),
        ({"training": [{"image": ["a.nii", "b.nii"], "label": "a.nii"}]}, "one file each"),
        ({"training": []}, "an empty list"),
        ({"training": [{"image": "a.nii"}, {"image": "a.nii"}]}, "none twice, got a"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, content, why):
    with pytest.raises(ValueError, match=why):
        find_sources(datalist=write_list(tmp_path, content))
    with pytest.raises(ValueError, match="readable"):
        find_sources(datalist=tmp_path / "none.json")


def test_one_file_is_found_though_its_name_looks_like_a_pattern(tmp_path):
    touch(tmp_path, "a[1].nii", "a1.nii")
    assert find_files("images", tmp_path / "a[1].nii") == [("a[1]", tmp_path / "a[1].nii")]
    assert [name for name, _ in find_files("images", f"{tmp_path}/a[0-9].nii")] == ["1"]


def test_names_match_with_as_few_endings_dropped_as_can_be():
    first, second = (
        [(name, Path(f"{kind}/{name}")) for name in names]
        for kind, names in (("r", ("a_liver", "b", "c")), ("p", ("a_ct_seg", "b_seg", "d")))
    )
    matched = match_names(first, second, endings=2)
    assert [(str(one), str(other)) for _, one, other in sorted(matched.pairs)] == [("r/a_liver", "p/a_ct_seg"), ("r/b", "p/b_seg")]
    assert ([name for name, _ in matched.first], [name for name, _ in matched.second]) == (["c"], ["d"])
    assert [name for name, _ in match_names(first, second, endings=1).first] == ["a_liver", "c"]


@pytest.mark.parametrize("name", ["case.nii", "case.nii.gz", "case.dcm", "case.DCM", "case.IMA", "case.dicom", "case"])
def test_a_case_is_named_without_its_files_ending(name):
    assert stem(Path(name)) == "case"

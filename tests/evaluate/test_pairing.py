"""Which files are one case, and what is refused because it is unclear."""

import re
from pathlib import Path

import pytest

from gpu_synth.evaluate.pairing import pair


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def paired(folder: Path, **options):
    return pair(folder / "r", folder / "p", options.get("compare"), options.get("probabilities"), options.get("images"))


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [("a", "a"), ("a", "a_seg"), ("a_liver", "a_ct_seg"), ("a_label", "a_0000_seg"), ("a_0000", "a_0000_seg"), ("a-seg", "a")],
)
def test_endings_may_differ(tmp_path, reference, prediction):
    touch(tmp_path, f"r/{reference}.nii.gz", f"p/{prediction}.nii", "r/other.nii", "p/more.nii", "p/probabilities/x.txt")
    with pytest.raises(ValueError, match="probabilities must be a folder"):
        paired(tmp_path)
    (tmp_path / "p/probabilities/x.txt").unlink()
    (tmp_path / "p/probabilities").rmdir()
    out = paired(tmp_path)
    assert [(case.case, case.predictions) for case in out.cases] == [
        (reference, (tmp_path / f"p/{prediction}.nii",)),
        ("other", (None,)),
    ]
    assert out.extra == (("more.nii",),)
    assert out.has_probabilities == (False,)


def test_every_kind_of_file_finds_its_case(tmp_path):
    files = (
        "r/a_liver",
        "r/b_liver",
        "p/a_ct_seg",
        "p/b_ct_seg",
        "q/b_seg",
        "i/b_ct",
        "p/probabilities/a_ct_seg",
        "p/probabilities/b_ct_seg",
    )
    touch(tmp_path, *(f"{name}.nii" for name in files))
    out = paired(tmp_path, compare=tmp_path / "q", images=tmp_path / "i")
    a, b = out.cases
    assert a == (
        "a_liver",
        tmp_path / "r/a_liver.nii",
        (tmp_path / "p/a_ct_seg.nii", None),
        (tmp_path / "p/probabilities/a_ct_seg.nii", None),
        None,
    )
    assert b.predictions == (tmp_path / "p/b_ct_seg.nii", tmp_path / "q/b_seg.nii")
    assert b.image == tmp_path / "i/b_ct.nii"
    assert out.has_probabilities == (True, False)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (("r/a", "p/b"), "predictions must match references by name, each one at most, got b.nii for a.nii; give quoted globs"),
        (("r/a", "p/a_seg", "p/a_ct"), "got a_ct.nii, a_seg.nii for a.nii"),
        (("r/a_liver", "r/a_mask", "p/a"), "got a.nii for a_liver.nii and others"),
    ],
    ids=["none", "two-for-one", "one-for-two"],
)
def test_what_is_unclear_is_refused(tmp_path, files, says):
    touch(tmp_path, *(f"{name}.nii" for name in files))
    with pytest.raises(ValueError, match=says.replace(".", r"\.")):
        paired(tmp_path)


def test_names_that_stand_for_two_references_are_refused(tmp_path):
    touch(tmp_path, "r/a.nii", "r/a.nii.gz", "p/a.nii")
    with pytest.raises(ValueError, match="references must have names of their own, got a more than once") as error:
        paired(tmp_path)
    assert re.findall(r"--\w+", str(error.value)) == ["--predictions", "--references"]


@pytest.mark.parametrize("argument", ["compare", "probabilities", "images"])
def test_messages_name_the_options_that_there_are(tmp_path, argument):
    touch(tmp_path, "r/a.nii", "p/a.nii")
    with pytest.raises(ValueError, match=f"{argument} and references must be different files") as error:
        paired(tmp_path, **{argument: tmp_path / "r"})
    assert re.findall(r"--\w+", str(error.value)) == [f"--{argument}", "--references"]

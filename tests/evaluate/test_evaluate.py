"""The whole of `evaluate`: its figures by hand, its files, two models, what it does where there is nothing to measure."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from masks import SPACING_MM, A, B, organ, write

from gpu_synth.cli import main
from gpu_synth.evaluate.overlap import overlap
from gpu_synth.evaluate.run import evaluate


def score(folder, **options):
    where = {name: str(folder / name) for name in ("predictions", "references", "out")}
    return evaluate(**{**where, **options})


def rows(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_figures_are_those_worked_out_by_hand(scans):
    """Tumour DSC 2·64/(64+128), 0 and 2·1120/(1120+2240); of five scans two lesions of three are found, and two are invented."""
    out = score(scans)["scores"]["predictions"]
    assert out["dsc_tumor"]["value"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert out["dsc_tumor"]["count"] == 3
    assert out["dsc_organ"]["value"] == out["nsd_organ"]["value"] == 1.0
    wilson = [pytest.approx(0.0945312, abs=1e-6), pytest.approx(0.9054688, abs=1e-6)]  # 1/2 ± 1.96 √(2/4 + 1.96²/4) / (2 + 1.96²)
    assert out["dsc_tumor_empty"] == {"value": 0.5, "interval_95": wilson, "count": 2}
    assert out["lesions_found"]["value"] == pytest.approx(2 / 3)
    assert out["lesions_found_by_radius_mm"]["under 5"]["value"] == 0.5
    assert out["lesions_found_by_radius_mm"]["10 to 15"]["count"] == 1
    assert out["lesions_found_by_radius_mm"]["over 20"] == {"value": None, "interval_95": None, "count": 0}
    assert out["false_positives_per_scan"]["value"] == pytest.approx(2 / 5)
    assert out["predicted_lesions_that_are_real"]["value"] == pytest.approx(2 / 4)
    assert out["froc"] == {"false_positives_per_scan": [0.4], "sensitivity": [pytest.approx(2 / 3)], "score": None}
    by_case = {row["case"]: row for row in rows(scans / "out" / "cases.csv")}
    assert float(by_case["case0_liver"]["nsd_tumor"]) == pytest.approx(2 / 3, abs=1e-6), "three equal surfaces, two of which coincide"
    assert [float(by_case[f"case{n}_liver"]["nsd_tumor"]) for n in (1, 2, 3)] == [0.0, 1.0, 0.0]
    assert [by_case[f"case{n}_liver"]["tumor_empty"] for n in range(5)] == ["0", "0", "1", "1", "0"]
    assert float(by_case["case0_liver"]["tumor_ml"]) == pytest.approx(64 * np.prod(SPACING_MM) / 1000)
    lesions = rows(scans / "out" / "lesions.csv")
    assert [(x["case"], x["kind"], x["matched"], x["radius_bin_mm"]) for x in lesions if x["case"] == "case0_liver"] == [
        ("case0_liver", "reference", "1", "under 5"),
        ("case0_liver", "predicted", "1", "under 5"),
        ("case0_liver", "predicted", "0", "under 5"),
    ]
    assert [float(lesions[0][f"{axis}_mm"]) for axis in "xyz"] == pytest.approx([9.5 * 1.5, 9.5, 7.5 * 3])


def test_two_models_are_compared_scan_by_scan(scans):
    out = score(scans, compare=str(scans / "other"))["scores"]
    apart = out["difference"]
    assert out["other"]["dsc_tumor"]["value"] == pytest.approx(1 / 3)
    assert apart["dsc_tumor"]["value"] == pytest.approx(out["predictions"]["dsc_tumor"]["value"] - 1 / 3)
    assert apart["what"] == "predictions − other"
    assert apart["dsc_tumor"]["p_value"] == 1.0, "2/3, −1 and 2/3: of eight ways to flip the signs none is nearer zero"
    assert apart["lesions_found"]["value"] == pytest.approx(1 / 3)
    assert apart["false_positives_per_scan"]["value"] == pytest.approx(2 / 5 - 3 / 5)
    page = (scans / "out" / "report.html").read_text()
    assert "predictions − other" in page
    one, other = next(line.split("<b>other</b>") for line in page.splitlines() if "FROC is a single point" in line)
    assert "(a folder <code>probabilities</code> within its predictions, or <code>--probabilities</code>)" in one
    assert "(a folder <code>probabilities</code> within its predictions)" in other, "the option is for the first model"
    assert "sign-flip permutation test" in page


class Page(HTMLParser):
    """What a page asks the network for, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def test_the_report_holds_all_that_it_shows(scans):
    score(scans, images=str(scans / "images"))
    page = (scans / "out" / "report.html").read_text()
    read = Page(page)
    assert len(read.sources) == 3 + 3, "three plots and, of three scans with a tumour, their pictures"
    assert all(source.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for source in read.sources)
    assert not re.search(r"(?<!xmlns=\")(?<!xlink=\")https?://|@import|<script|url\(", page)
    assert page.index("tumour DSC") < page.index("<img"), "the figures come first"
    assert "2 scans without tumour in the reference" in read.text
    assert "predicts none in 1 of them" in read.text
    assert "so that its FROC is a single point" in read.text
    assert "no CT was given" not in read.text
    first = (scans / "out" / "scores.json").read_bytes(), page
    score(scans, images=str(scans / "images"), workers=2)
    assert ((scans / "out" / "scores.json").read_bytes(), (scans / "out" / "report.html").read_text()) == first, "in processes alike"


def test_without_a_ct_or_with_one_on_another_grid_the_pictures_say_so(scans):
    score(scans)
    assert "no CT was given: --images" in (scans / "out" / "report.html").read_text()
    write(scans / "images", "case1_ct", np.zeros((5, 5, 5), np.int16))
    score(scans, images=str(scans / "images"))
    page = Page((scans / "out" / "report.html").read_text()).text
    assert "case1_ct.nii.gz: must lie on the grid of its reference" in page


def test_a_missing_prediction_counts_as_an_empty_one_and_is_said(scans, capsys):
    (scans / "predictions" / "case0_ct_seg.nii.gz").unlink()
    out = score(scans)
    assert out["missing"] == {"predictions": ["case0_liver"]}
    assert out["scored"] == 5
    assert out["scores"]["predictions"]["dsc_tumor"]["value"] == pytest.approx((0 + 0 + 2 / 3) / 3)
    assert out["scores"]["predictions"]["dsc_organ"]["value"] == pytest.approx(4 / 5)
    assert rows(scans / "out" / "cases.csv")[0]["status"] == "no prediction"
    page = Page((scans / "out" / "report.html").read_text()).text
    assert "predictions has no prediction for 1 scan, which counts as an empty one: case0_liver" in page
    assert "no prediction by predictions, counted as empty: case0_liver" in capsys.readouterr().out.replace("\n", " ")


def test_an_extra_prediction_is_not_scored_and_is_said(scans):
    write(scans / "predictions", "case9_ct_seg", organ((A,)))
    out = score(scans)
    assert out["without_reference"] == {"predictions": ["case9_ct_seg.nii.gz"]}
    assert out["scored"] == 5
    assert "1 prediction of predictions without a reference, not scored" in Page((scans / "out" / "report.html").read_text()).text


@pytest.mark.parametrize(
    ("label", "options", "says"),
    [
        (organ((A,))[:-1], {}, "must lie on the grid of its reference, 32×28×20 voxels"),
        (
            organ((A,)),
            {"origin_mm": (0.0, 4.0, 0.0)},
            "from (0.0, 4.0, 0.0) mm in RAS; gpu-synth predict writes on the CT's own grid",
        ),
        (organ((A,)), {"spacing_mm": (1.5, 1.0, 2.5)}, "got 32×28×20 voxels of 1.5×1×2.5 mm"),
        (organ((A,)) * 3, {}, "must hold organ [1] or tumour [2], got only 3, 6; name its values: --predicted_organ_labels"),
        (organ((A,)) * np.float32(0.4), {}, "must hold whole numbers from 0"),
    ],
    ids=["shape", "place", "spacing", "labels", "probabilities"],
)
def test_a_prediction_that_cannot_be_scored_is_refused_by_name_and_the_others_go_on(scans, label, options, says):
    path = write(scans / "predictions", "case1_ct_seg", label, **options)
    out = score(scans)
    assert list(out["refused"]) == ["case1_liver"]
    why = out["refused"]["case1_liver"]
    assert why.startswith(f"{path}: must ")
    assert says in why
    assert out["scored"] == 4
    assert out["scores"]["predictions"]["dsc_tumor"]["value"] == pytest.approx((2 / 3 + 2 / 3) / 2), "it counts in no mean"
    assert rows(scans / "out" / "cases.csv")[-1]["status"] == "refused"
    page = Page((scans / "out" / "report.html").read_text()).text
    assert "1 scan could not be scored and counts in no figure" in page
    assert path.name in page


def test_a_damaged_file_is_refused(scans):
    (scans / "references" / "case2_liver.nii.gz").write_bytes(b"no NIfTI")
    assert "is no readable NIfTI file" in score(scans)["refused"]["case2_liver"]


def test_where_no_case_can_be_scored_nothing_is_written(scans):
    for n in range(5):
        write(scans / "predictions", f"case{n}_ct_seg", organ()[1:])
    with pytest.raises(ValueError, match=r"must hold a case that can be scored, got 5 refused; case0_liver: .* must lie on the grid"):
        score(scans)
    assert not (scans / "out").exists()


def test_scans_of_no_tumour_at_all(tmp_path):
    for n in range(2):
        write(tmp_path / "references", f"case{n}", organ())
        write(tmp_path / "predictions", f"case{n}", organ((B,) if n else ()))
    out = score(tmp_path)["scores"]["predictions"]
    assert out["dsc_tumor"] == {"value": None, "interval_95": None, "count": 0}
    assert out["dsc_tumor_empty"]["value"] == 0.5
    assert out["froc"]["sensitivity"] == []
    assert "No scan holds a lesion" in (tmp_path / "out" / "report.html").read_text()
    json.loads((tmp_path / "out" / "scores.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def test_a_reference_of_tumours_alone_says_nothing_of_the_organ(scans):
    write(scans / "references", "case0_liver", np.where(organ((A,)) == 2, 2, 0).astype(np.uint8))
    out = score(scans)["scores"]["predictions"]
    assert (out["dsc_organ"]["value"], out["dsc_organ"]["count"]) == (1.0, 4)
    assert (out["dsc_tumor"]["count"], out["dsc_organ_empty"]["count"]) == (3, 0)
    (row, *_) = rows(scans / "out" / "cases.csv")
    assert row["dsc_organ"] == row["nsd_organ"] == ""
    assert "case0_liver.nii.gz: it holds tumours but no organ: the organ is not scored" in row["notes"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 9 bytes")])
def test_a_scan_too_large_for_the_memory_is_refused_and_the_others_go_on(scans, monkeypatch, error):
    def fail_for_the_large(reference, predicted, spacing_mm):
        if np.count_nonzero(reference) == 16 * 14 * 10:
            raise error
        return overlap(reference, predicted, spacing_mm)

    monkeypatch.setattr("gpu_synth.evaluate.case.overlap", fail_for_the_large)
    out = score(scans)
    assert out["scored"] == 4
    assert "case4_liver.nii.gz: not enough memory to score it" in out["refused"]["case4_liver"]
    error = RuntimeError("of another kind")
    with pytest.raises(RuntimeError, match="of another kind"):
        score(scans)


def test_one_scan_of_nothing(tmp_path):
    for folder in ("references", "predictions"):
        write(tmp_path / folder, "a<b>&", organ() * 0)
    out = score(tmp_path)["scores"]["predictions"]
    assert out["dsc_organ_empty"] == out["dsc_tumor_empty"]
    assert out["dsc_tumor_empty"] == {"value": 1.0, "interval_95": [pytest.approx(1 / (1 + 1.959964**2)), pytest.approx(1.0)], "count": 1}
    assert "a&lt;b&gt;&amp;" in (tmp_path / "out" / "report.html").read_text()


def test_probabilities_make_a_froc(scans):
    """Where predict left them; a case without a prediction needs none, and its lesion is missed at every score."""
    for n, level in ((0, 0.9), (1, 0.1), (2, 0.1), (3, 0.6), (4, 0.8)):
        likely = np.full(organ().shape, level, np.float32)
        if n == 0:
            likely[B[0][0] : B[0][1]] = 0.3  # the false one
        write(scans / "predictions" / "probabilities", f"case{n}_ct_seg", likely)
    (scans / "predictions" / "case1_ct_seg.nii.gz").unlink()
    (scans / "predictions" / "probabilities" / "case1_ct_seg.nii.gz").unlink()
    curve = score(scans)["scores"]["predictions"]["froc"]
    points = list(zip(curve["false_positives_per_scan"], np.round(curve["sensitivity"], 3).tolist(), strict=True))
    assert points == [(0.4, 0.667), (0.2, 0.667), (0.0, 0.667), (0.0, 0.333), (0.0, 0.0)]
    assert curve["score"] == pytest.approx(2 / 3)
    assert "mean sensitivity at 0.25, 0.5, 1, 2, 4, 8 false positives per scan 66.7 %" in (scans / "out" / "report.html").read_text()
    write(scans / "predictions" / "probabilities", "case0_ct_seg", np.full(organ().shape, 7, np.float32))
    assert "must hold probabilities from 0 to 1, got 7 to 7; write them after the softmax" in score(scans)["refused"]["case0_liver"]
    (scans / "predictions" / "probabilities" / "case0_ct_seg.nii.gz").unlink()
    with pytest.raises(ValueError, match="probabilities must hold a file for every prediction, got none for case0_liver"):
        score(scans)


def test_postprocessing_is_offered_and_said(scans):
    label = organ((A,))
    label[30:32, 26:28, 19] = 2  # 11 mm and more from the organ
    write(scans / "predictions", "case1_ct_seg", label)
    assert score(scans)["scores"]["predictions"]["false_positives_per_scan"]["value"] == pytest.approx(3 / 5)
    assert "with no post-processing" in (scans / "out" / "report.html").read_text()
    assert score(scans, postprocess=True)["scores"]["predictions"]["false_positives_per_scan"]["value"] == pytest.approx(2 / 5)
    assert "tumours that touch it or lie within 10 mm" in (scans / "out" / "report.html").read_text()


@pytest.mark.parametrize("postprocess", [False, True])
def test_other_labels_and_other_orientations(scans, postprocess):
    """References 5 and 7, LiTS-like predictions 1 and 2, each stored along other axes: the same figures."""
    import nibabel as nib

    def turn(path, axes):
        orientation = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
        nib.save(nib.load(path).as_reoriented(orientation), path)

    label = organ((A,))
    label[31, 12:14, 8:10] = 2  # 6 mm from the organ: kept, but not if a step along i were as long as one along k
    write(scans / "predictions", "case1_ct_seg", label)
    before = score(scans, postprocess=postprocess)["scores"]["predictions"]
    assert before["false_positives_per_scan"]["value"] == pytest.approx(3 / 5)
    for path in (scans / "references").iterdir():
        data = np.array([0, 5, 7], np.uint8)[np.asarray(nib.load(path).dataobj)]
        data[0, 0, 0] = 9
        nib.save(nib.Nifti1Image(data, nib.load(path).affine), path)
        turn(path, "IAR")
    for path in (scans / "predictions").iterdir():
        turn(path, "SLP")
    out = score(scans, organ_labels=(5,), tumor_labels=(7,), postprocess=postprocess)
    assert out["scores"]["predictions"] == before
    assert "values 9 are neither organ nor tumour" in rows(scans / "out" / "cases.csv")[0]["notes"]


def test_a_header_without_a_place_is_taken_to_lie_where_its_reference_does(scans):
    import nibabel as nib

    before = score(scans)["scores"]["predictions"]
    for path in (scans / "predictions").iterdir():
        image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None)
        assert image.header["sform_code"] == image.header["qform_code"] == 0
        nib.save(image, path)
    assert score(scans)["scores"]["predictions"] == before
    assert "one grid is assumed" in rows(scans / "out" / "cases.csv")[0]["notes"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"predictions": "/nowhere"},
            "predictions must be a folder of .nii or .nii.gz files or of DICOM folders, or a quoted glob that finds some, got /nowhere",
        ),
        ({"references": "/nowhere"}, "references must be a folder"),
        ({"compare": "/nowhere"}, "compare must be a folder"),
        ({"compare": "{predictions}"}, "compare must be other predictions"),
        ({"predictions": "{references}"}, "predictions and references must be different files"),
        (
            {"organ_labels": "1", "tumor_labels": "1"},
            "organ_labels and tumor_labels must be whole numbers from 1, at least one each and none in",
        ),
        ({"predicted_tumor_labels": "[]"}, "predicted_organ_labels and predicted_tumor_labels must be"),
        ({"predictions": "{predictions}/*_ct_seg.nii.gz", "references": "{references}/*_liver.nii.gz"}, None),
    ],
    ids=["predictions", "references", "compare", "same-model", "same-files", "labels", "no-label", "globs"],
)
def test_the_command(scans, options, says, capsys):
    given = {"predictions": scans / "predictions", "references": scans / "references", "out": scans / "new" / "out"}
    given = {name: str(value) for name, value in given.items()}
    given |= {name: value.format(**given) for name, value in options.items()}
    assert main(["evaluate", *(f"--{name}={value}" for name, value in given.items())]) == (2 if says else 0)
    errors = capsys.readouterr().err
    assert not says or f"gpu-synth: error: {says}" in errors
    assert (scans / "new" / "out" / "report.html").is_file() == (says is None)


def test_the_command_from_an_empty_folder(scans, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--predictions", "predictions", "--references", "references", "--out", "report"]) == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"scores.json", "cases.csv", "lesions.csv", "report.html"}
    assert "tumour DSC" in capsys.readouterr().out
    (scans / "predictions" / "case4_ct_seg.nii.gz").unlink()
    assert main(["evaluate", "--predictions", "predictions", "--references", "references", "--out", "report"]) == 1, "something is missing"

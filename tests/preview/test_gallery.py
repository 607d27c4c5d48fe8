"""The gallery, presets side by side, and the command that draws them: what they show, and what they refuse."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from ct_files import write_case
from matplotlib.image import imread

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.cli import main
from gpu_synth.preview.comparison import _axial, comparison
from gpu_synth.preview.gallery import caption, gallery
from gpu_synth.preview.slices import lesions_in_words, save_png
from gpu_synth.preview.specimens import make_specimens, specimens

LIVER = presets.get("liver")
KINDS = [kind.name for kind in LIVER.kinds]
TWO_MM = (2.0, 2.0, 2.0)
CYST = {"kinds": (replace(next(kind for kind in LIVER.kinds if kind.name == "cyst"), prob=1.0),)}


def scan(radius_mm=36.0, spacing_mm=TWO_MM, margin_mm=8.0):
    """A ball of 100 HU in fat, with noise."""
    shape = [round(2 * (radius_mm + margin_mm) / mm) for mm in spacing_mm]
    i, j, k = (((torch.arange(n) + 0.5) * mm - n * mm / 2) / radius_mm for n, mm in zip(shape, spacing_mm, strict=True))
    label = (i[:, None, None] ** 2 + j[:, None] ** 2 + k**2 < 1).to(torch.uint8)[None, None]
    noise = 10.0 * torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(label > 0, 100.0, -100.0) + noise, label


def drawn(image, label, preset, spacing_mm, **which):
    """A gallery of the ball."""
    return gallery(make_specimens(image, label, preset, spacing_mm, **which), preset, spacing_mm, (0.0, 200.0))


def texts(figure):
    """Everything written in a figure."""
    own = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [*(text.get_text() for text in own), *(axes.get_title(loc) for axes in figure.axes for loc in ("left", "center"))]


def png(figure, path):
    save_png(figure, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def liver():
    """Every kind and size of preset liver in the ball."""
    return make_specimens(*scan(), "liver", TWO_MM, uid=5, seed=2)


def test_rows_are_kinds_and_columns_sizes(liver):
    assert [row[0].specimen.kind for row in liver] == KINDS
    assert all([made.specimen.radius_mm for made in row] == [3.0, 6.0, 12.0, 24.0] for row in liver)
    assert not [made.why_not for row in liver for made in row if made.why_not]
    for row in liver:
        for made in row:
            assert made.asked["kind"] == made.record["kind"] == made.specimen.kind
            assert made.asked["radius_mm"] == pytest.approx(made.specimen.radius_mm, rel=1e-3)
            assert made.record["lesion"] == 1
    uids = [made.record["uid"] for row in liver for made in row]
    assert len(set(uids)) == len(uids), "each lesion has a site and an outline of its own"


def test_records_are_those_of_a_plan_of_the_same_lesion(liver):
    image, label = scan()
    for made in (liver[0][1], liver[3][2], liver[4][3]):
        synthesizer = TumorSynthesizer("liver", prob=1.0, seed=2, scope="volume", **made.specimen.figures)
        plan = synthesizer.plan(image, label, TWO_MM, uid=torch.tensor([made.record["uid"]]))
        out = synthesizer.render(image, label, plan)
        assert plan.to_records() == [made.asked]
        assert out.records() == [made.record]
        k = next(k for k in range(label.shape[-1]) if torch.equal(image[0, 0, :, :, k], torch.from_numpy(made.healthy_hu)))
        np.testing.assert_array_equal(made.image_hu, out.image[0, 0, :, :, k])
        np.testing.assert_array_equal(made.tumor, out.label[0, 0, :, :, k] == 2)
        assert made.tumor.sum() == (out.label == 2).sum((0, 1, 2, 3)).max(), "the slice that shows most"


def test_a_wide_scan_is_worked_on_around_its_organ_and_told_of_as_a_whole():
    narrow, wide = (scan(radius_mm=20.0, spacing_mm=(4.0, 4.0, 4.0), margin_mm=margin) for margin in (48.0, 80.0))
    wide[0][..., 8:-8, 8:-8, 8:-8] = narrow[0]
    (inner,), (outer,) = (
        make_specimens(*one, "liver", (4.0, 4.0, 4.0), overrides={**CYST, "size_mm": (9, 11, 12, 12.5, 13)}) for one in (narrow, wide)
    )
    moved = {**inner[0].record, "centre_vox": tuple(at + 8 for at in inner[0].record["centre_vox"])}
    assert outer[0].record == moved
    assert outer[0].middle_mm == pytest.approx([at + 32.0 for at in inner[0].middle_mm])
    np.testing.assert_array_equal(outer[0].image_hu[8:-8, 8:-8], inner[0].image_hu)
    changed = np.argwhere(outer[0].image_hu != outer[0].healthy_hu)
    assert np.linalg.norm(changed.mean(0) * 4.0 - outer[0].middle_mm) < 12.0


def test_captions_tell_kind_radius_contrast_and_depth(liver):
    for made in (made for row in liver for made in row):
        kind, asked, came_out, change, noise, deep = re.fullmatch(
            r"(\w+), r ([\d.]+) → ([\d.]+) mm, ([−+]\d+) HU, ([\d.]+) × noise, (\d+) mm deep", caption(made)
        ).groups()
        assert kind == made.specimen.kind
        assert float(asked) == made.specimen.radius_mm
        assert float(came_out) == pytest.approx(made.record["equivalent_radius_mm"], abs=0.051)
        assert float(change.replace("−", "-")) == pytest.approx(-made.record["mean_drop_hu"], abs=0.51)
        assert float(noise) == pytest.approx(made.record["contrast_to_noise"], abs=0.051)
        assert float(deep) == pytest.approx(made.record["surface_mm"], abs=0.51)
    assert "−" in caption(liver[KINDS.index("cyst")][2]), "a cyst is darker"
    assert "+" in caption(liver[KINDS.index("hyperdense")][2])


def test_a_cell_shows_the_lesion_in_its_middle_before_and_after(tmp_path):
    figure = drawn(*scan(), "liver", TWO_MM, overrides=CYST)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 * 4
    for (healthy, made, outlined), field_mm in zip(zip(*[iter(panels)] * 3, strict=True), (24.0, 30.0, 60.0, 120.0), strict=True):
        (left, right), (low, high) = healthy.get_xlim(), healthy.get_ylim()
        assert (left - right, high - low) == (field_mm, field_mm), "the patient's right is on the left, anterior up"
        before, after = (np.asarray(panel.images[0].get_array()) for panel in (healthy, made))
        changed = np.argwhere(after < before - 40) * 2.0 + 1.0  # rows are j
        np.testing.assert_allclose((changed.min(0) + changed.max(0)) / 2, ((low + high) / 2, (left + right) / 2), atol=4.1)
        box = outlined.collections[0].get_paths()[0].get_extents()
        assert changed.min(0)[1] - 4 < box.x0 < box.x1 < changed.max(0)[1] + 4
        assert not healthy.collections
        assert not made.collections
    shown = texts(figure)
    assert "liver; window 0 to 200 HU" in shown
    assert {"radius 3 mm; 24 mm across", "radius 24 mm; 120 mm across", "cyst", "healthy", "with the lesion", "its outline"} <= set(shown)
    save_png(figure, tmp_path / "a.png")
    height, width, _ = imread(tmp_path / "a.png").shape
    assert 1500 < width < 2500
    assert 200 < height < 400


def test_the_same_seed_and_uid_make_the_same_bytes(tmp_path):
    a, b, uid, seed = (
        png(drawn(*scan(), "liver", TWO_MM, overrides=CYST, **which), tmp_path / "a.png") for which in ({}, {}, {"uid": 1}, {"seed": 1})
    )
    assert a == b
    assert len({a, uid, seed}) == 3


def test_the_published_preset_shows_its_size_classes():
    (row,) = make_specimens(*scan(), "liver-hu2022", TWO_MM)
    assert [made.specimen.kind for made in row] == ["tiny", "small", "medium", "large"]
    for made, (low, high) in zip(row, presets.published().radius_mm, strict=True):
        assert made.why_not or all(low <= radius_mm <= high for radius_mm in made.asked["radii_mm"])
        assert made.why_not or re.fullmatch(r"\w+, r [\d.]+ → [\d.]+ mm, −\d+ HU, [\d.]+ × noise, \d+ mm deep", caption(made))
    assert not row[1].why_not
    assert "small, semi-axes 6–10 mm; 40 mm across" in texts(drawn(*scan(), "liver-hu2022", TWO_MM))


def test_sizes_are_those_that_a_preset_draws():
    sizes = [row[0] for row in zip(*specimens(replace(LIVER, size_mm=(4, 8, 10, 12, 20))), strict=True)]
    assert [specimen.radius_mm for specimen in sizes] == [6.0, 12.0]
    assert [s.radius_mm for s in specimens(replace(LIVER, size_mm=(30, 32, 34, 36, 40)))[0]] == [pytest.approx(34.6, abs=0.1)]
    without = replace(LIVER, kinds=(replace(LIVER.kinds[0], prob=1.0), replace(LIVER.kinds[1], prob=0.0)))
    assert [row[0].kind for row in specimens(without)] == [LIVER.kinds[0].name]


def test_voxels_of_any_shape():
    spacing_mm = (0.9, 1.1, 5.0)
    (row,) = make_specimens(*scan(30.0, spacing_mm), "liver", spacing_mm, overrides=CYST)
    assert not row[1].why_not
    inside = row[1].tumor.any(axis=1).nonzero()[0], row[1].tumor.any(axis=0).nonzero()[0]
    for at, mm, middle_mm in zip(inside, spacing_mm[:2], row[1].middle_mm, strict=True):
        assert (at[0] + at[-1] + 1) / 2 * mm == pytest.approx(middle_mm)
        assert 6.0 < len(at) * mm < 24.0, "a lesion of 12 mm across, as long as its form allows"
    panel = [axes for axes in drawn(*scan(30.0, spacing_mm), "liver", spacing_mm, overrides=CYST).axes if axes.images][3]
    assert panel.images[0].get_extent() == [0, pytest.approx(row[1].tumor.shape[0] * 0.9), 0, pytest.approx(row[1].tumor.shape[1] * 1.1)]


@pytest.mark.parametrize(
    ("case", "sizes", "says"),
    [
        (lambda: (scan()[0], scan()[1] * 0), 4, "no organ here"),
        (lambda: scan(14.0), 1, r"organ too small: it has 11\.\d ml, the lesion 57\.9 ml"),
        (lambda: (scan()[0], scan()[1].index_fill(2, torch.tensor([22]), 2)), 4, "no place in the organ, in 8 tries"),
    ],
    ids=["no organ", "small organ", "tumour already there"],
)
def test_a_cell_without_a_lesion_says_why(case, sizes, says, tmp_path):
    figure = drawn(*case(), "liver", TWO_MM, overrides=CYST)
    shown = texts(figure)
    assert len([text for text in shown if re.fullmatch(says, text)]) == sizes
    assert "cyst, r 24.0 mm" in shown
    assert len([axes for axes in figure.axes if axes.images]) == 3 * (4 - sizes)
    assert png(figure, tmp_path / "a.png")


def test_a_lesion_between_voxels_says_so():
    coarse = (14.0, 14.0, 14.0)
    whys = {
        made.why_not for uid in range(4) for made in make_specimens(*scan(60.0, coarse), "liver", coarse, uid=uid, overrides=CYST)[0][:1]
    }
    assert "holds no voxel, at 14 × 14 × 14 mm" in whys


# ---- presets side by side ----------------------------------------------------------------------------------------------------------------


def synthesizers(*names, **overrides):
    return {name: TumorSynthesizer(name, prob=1.0, scope="volume", **overrides) for name in names}


def test_presets_stand_side_by_side_in_the_same_slices():
    image, label = scan()
    both = synthesizers("liver-hu2022", "liver")
    figure = comparison(image, label, both, TWO_MM, uid=4)
    panels = np.array([axes for axes in figure.axes if axes.images]).reshape(-1, 3)
    outs = [synth.render(image, label, synth.plan(image, label, TWO_MM, uid=torch.tensor([4]))) for synth in both.values()]
    slices = [row[0].texts[0].get_text().split(" = ") for row in panels]
    assert [axis for axis, _ in slices] == ["k"] * (len(slices) - 1) + ["j"]
    for row, (axis, at) in zip(panels, slices, strict=True):
        for panel, volume in zip(row, (image, *(out.image for out in outs)), strict=True):
            plane = volume[0, 0, :, :, int(at)] if axis == "k" else volume[0, 0, :, int(at)]
            np.testing.assert_array_equal(panel.images[0].get_array(), plane.T)
        drawn = [bool((out.label[0, 0].select(2 if axis == "k" else 1, int(at)) == 2).any()) for out in outs]
        assert len(row[0].collections) == sum(drawn), "where lesions come is drawn over the healthy scan"
        assert not row[1].collections
        assert not row[2].collections
    titles = [panel.get_title().replace("\n", " ") for panel in panels[0]]
    assert titles[1:] == [f"{name}: {lesions_in_words(out)}" for name, out in zip(both, outs, strict=True)]
    assert figure.get_suptitle() == "uid 4"


def test_every_preset_gets_slices_of_its_own_and_none_twice():
    image, label = scan()
    ends = {"low": (0, 12), "high": (30, 44)}
    named = {name: TumorSynthesizer("liver", prob=1.0, scope="volume", count=(4, 4)) for name in ends}
    plans = {name: synth.plan for name, synth in named.items()}
    for name, (first, last) in ends.items():  # each plans as if the organ were its own part only
        part = label.clone()
        part[..., :first], part[..., last:] = 0, 0
        named[name].plan = lambda image, _, *rest, name=name, part=part, **more: plans[name](image, part, *rest, **more)
    figure = comparison(image, label, named, TWO_MM)
    at = [int(text.removeprefix("k = ")) for text in texts(figure) if text.startswith("k = ")]
    assert min(at) < 14
    assert max(at) > 28
    assert len(set(at)) == len(at) <= 4


def test_slices_show_every_preset_where_they_can_and_a_panel_without_a_lesion_says_so(monkeypatch):
    """Two presets whose lesions meet in some slices, and, in the second case, in none."""
    image, label = scan(20.0, margin_mm=4.0)
    wide, small = np.zeros((2, *label.shape[2:]), bool)
    wide[4:12, 4:12, 4:16] = wide[3:13, 3:13, 5] = True  # fullest in slice 5, where the other is not
    for at, met in ((9, True), (18, False)):
        small[:] = False
        small[14:18, 9 : 12 if met else 11, at : at + 3] = True
        if not met:
            small[14:18, 9:11], small[14:18, 16:18, at : at + 3] = False, True
        both = {name: TumorSynthesizer("liver", prob=1.0, scope="volume", count=(1, 1)) for name in ("wide", "small")}
        for name, tumor in (("wide", wide), ("small", small)):
            new_label = torch.where(torch.from_numpy(tumor)[None, None], 2, label)
            render = both[name].render
            monkeypatch.setattr(both[name], "render", lambda *a, render=render, new=new_label: replace(render(*a), label=new))
        panels = [axes for axes in comparison(image, label, both, TWO_MM).axes if axes.images]
        rows = [panels[n : n + 3] for n in range(0, len(panels), 3)]
        for row in rows:
            axis, k = row[0].texts[0].get_text().split(" = ")
            for panel, tumor in zip(row[1:], (wide, small), strict=True):
                shows = tumor[:, :, int(k)].any() if axis == "k" else tumor[:, int(k)].any()
                assert [text.get_text() for text in panel.texts] == ([] if shows else ["no lesion in this slice"])
        said = sum(len(panel.texts) for row in rows for panel in row[1:])
        assert (len(rows), said) == ((2, 0) if met else (3, 3))


@pytest.mark.parametrize("same", [True, False], ids=["two lesions of one preset", "lesions of two presets"])
def test_a_slice_that_shows_a_lesion_serves_for_its_neighbour(same):
    wide, other = np.zeros((2, 20, 20, 20), bool)
    wide[2:6, 2:6, 4:12] = wide[2:7, 2:7, 8] = True  # fullest in slice 8
    for near, slices in ((6, [8]), (12, [8, 12])):
        other[:] = False
        other[10:13, 10:13, near : near + 4] = True
        assert _axial([wide | other] if same else [wide, other], wide) == slices
    assert _axial([other & wide], wide) == [8], "no lesion: the organ's fullest"


def test_nothing_to_compare_is_drawn_all_the_same():
    image, label = scan()
    figure = comparison(image, label * 0, synthesizers("liver-hu2022", "liver"), TWO_MM)
    assert [text for text in texts(figure) if "no lesion" in text] == ["liver-hu2022: no lesion", "liver: no lesion"]


def test_lesions_in_words_are_those_of_the_records():
    image, label = scan()
    for count, words in ((1, "1 lesion, equivalent diameter "), (3, "3 lesions, equivalent diameters ")):
        (synth,) = synthesizers("liver", count=(count, count), size_mm=(3, 4, 5, 6, 7)).values()
        out = synth.render(image, label, synth.plan(image, label, TWO_MM, uid=torch.tensor([1])))
        diameters = sorted((2 * record["equivalent_radius_mm"] for record in out.records()), reverse=True)
        assert len(diameters) == count
        assert lesions_in_words(out) == f"{words}{', '.join(f'{mm:.0f}' for mm in diameters)} mm"


# ---- the command -------------------------------------------------------------------------------------------------------------------------

COARSE = ["--spacing_mm", "6,6,6"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--gallery"],
        ["--gallery", "true", "--preset", "liver-hu2022"],
        ["--compare", "liver-hu2022,liver"],
        ["--compare=[liver,liver-hu2022]"],
    ],
    ids=["scan", "gallery", "gallery of the published preset", "compare", "compare in brackets"],
)
def test_without_a_scan_a_phantom_is_drawn(options, tmp_path, capsys):
    assert main(["preview", *options, *COARSE, "--out", f"{tmp_path}/new/a.png"]) == 0
    assert f"wrote {tmp_path}/new/a.png" in capsys.readouterr().out
    assert (tmp_path / "new" / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert imread(tmp_path / "new" / "a.png")[..., :3].std() > 0.1


def test_a_gallery_of_ones_own_scan_and_window(tmp_path):
    write_case(tmp_path)
    files = ["--image", f"{tmp_path}/images/a.nii.gz", "--label", f"{tmp_path}/labels/a.nii.gz", "--spacing_mm", "3,3,3"]
    for name, window_hu in (("a", "-100,100"), ("b", "-100,100"), ("c", "0,100")):
        assert main(["preview", *files, "--out", f"{tmp_path}/{name}.png", "--gallery", "--window_hu", window_hu]) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gallery", "--preset", "livr"], "kidney, got 'livr'; did you mean 'liver'?"),
        (["--compare", "liver,livr"], "kidney, got 'livr'; did you mean 'liver'?"),
        (
            ["--gallery", "--compare", "liver,liver-hu2022"],
            "compare must be left out of a gallery, got liver,liver-hu2022; draw one picture, then",
        ),
        (["--compare", "liver"], "compare must name two to 4 different presets, got liver; such as --compare liver-hu2022,liver"),
        (["--compare", "liver,liver"], "compare must name two to 4 different presets, got liver,liver; such as"),
        (
            ["--compare", "liver,liver-hu2022", "--preset", "mine.yaml"],
            "preset must be left out where compare names the presets, got 'mine.yaml'; add it to them: liver,liver-hu2022,mine.yaml",
        ),
        (
            ["--compare", "liver,liver-hu2022", "--overrides.count", "[1, 1]"],
            "overrides must be left out where compare names the presets, got {'count': [1, 1]}; write a preset of your own as YAML",
        ),
        (["--image", "a.nii"], "image and label must be given together, got image='a.nii', label=None; leave out both for a phantom"),
        (["--label", "a.nii"], "image and label must be given together, got image=None, label='a.nii'; leave out both for a phantom"),
        (["--organ_labels", "3"], "organ_labels must be left out where no label is given, got (3,); a phantom's organ is 1"),
        (["--spacing_mm", "1,0,1"], "spacing_mm must be finite and above 0 mm, got"),
        (["--window_hu", "90,-10"], "window_hu must be (low, high) with low < high, got (90.0, -10.0); swap them"),
        (["--uid", str(2**63)], f"uid must be an integer of 64 bits, got {2**63}"),
        (
            ["--gallery", "--uid", str(2**50)],
            f"uid must be an integer from −2^47 up to 2^47 for a gallery, got {2**50}; any small number does",
        ),
        (["--gallery", "--overrides.size_prob", "[1, 1, 0, 0]"], "size_prob must add up to 1, got (1, 1, 0, 0)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "_".join(value).replace("--", "")[:40],
)
def test_what_does_not_go_together_is_refused_with_its_mend(options, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spacing = [] if "--spacing_mm" in options else COARSE
    assert main(["preview", "--out", "a.png", *spacing, *options]) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("gpu-synth: error:"))
    assert says in error
    assert list(tmp_path.iterdir()) == []

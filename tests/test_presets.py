"""Presets: the published figures, overriding them, and refusing what cannot be drawn from."""

import re
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.kernels.plan import Scan
from gpu_synth.preset_table import Bounds, parameter_table, slots_of
from gpu_synth.presets import SIZE_CLASSES, SIZE_GROUPS

PUBLISHED = {
    "class_prob": (0.2,) * 5,
    "base_radius_mm": (4, 8, 16, 32),
    "radius_mm": ((3, 5), (6, 10), (12, 20), (24, 40)),
    "count": ((3, 10), (3, 10), (2, 5), (1, 3)),
    "mix_count": ((3, 10), (5, 10), (2, 5), (1, 3)),
    "elastic_sigma_mm": ((0.5, 1), (1, 2), (3, 6), (5, 10)),
    "elastic_sigma_integer": (False, True, True, True),
    "extent": (0.3, 0.7),
    "erosion_mm": 2,
    "density_sigma_mm": (3, 15),
    "density_scale": (0.19, 0.21),
    "density_offset": (0.04, 0.06),
    "grain_fine_prob": 0.7,
    "grain_fine_sigma_mm": (3, 5),
    "grain_coarse_sigma_mm": (5, 8),
    "texture_threshold": 0.12,
    "texture_gain": (0.5, 0.55),
    "edge_sigma_mm": (1, 2),
    "contrast_hu": (-145, -65),
}


def test_liver_hu2022_has_the_published_figures():
    preset = presets.get("liver-hu2022")
    for name, figure in PUBLISHED.items():
        assert getattr(preset, name) == figure, name
    assert {field.name for field in fields(preset)} == {*PUBLISHED, "name", "axial_axis"}


def test_names_are_those_that_get_takes():
    assert "liver-hu2022" in presets.names()
    assert [presets.get(name).name for name in presets.names()] == list(presets.names())


def test_overrides_change_a_copy():
    changed = presets.get("liver-hu2022", contrast_hu=[-90.0, -80.0], extent=(0.0, 1.0))  # YAML gives lists
    assert changed.contrast_hu == (-90.0, -80.0)
    assert changed.extent == (0.0, 1.0)
    assert presets.get("liver-hu2022").contrast_hu == (-145, -65)
    with pytest.raises(FrozenInstanceError):
        changed.erosion_mm = 3.0


def test_deviations_need_not_be_whole_where_they_are_not_integers():
    changed = presets.get("liver-hu2022", elastic_sigma_mm=((0.5, 1), (1.5, 2), (3, 6), (5, 10)), elastic_sigma_integer=[False] * 4)
    assert changed.elastic_sigma_mm[1] == (1.5, 2)


def test_digest_tells_figures_apart_and_nothing_else():
    digest = presets.get("liver-hu2022").digest()
    assert presets.get("liver-hu2022", contrast_hu=[-145, -65]).digest() == digest
    others = [
        presets.get("liver-hu2022", **change).digest()
        for change in ({"contrast_hu": (-145, -65.5)}, {"erosion_mm": 2.5}, {"elastic_sigma_integer": (False,) * 4}, {"axial_axis": 1})
    ]
    assert len({digest, *others}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"class_prob": (0.5, 0.5, 0.5, 0, 0)}, "class_prob must add up to 1, got (0.5, 0.5, 0.5, 0, 0)", id="adds-to-1.5"),
        pytest.param({"class_prob": (1.5, -0.5, 0, 0, 0)}, "class_prob must lie in [0, 1]", id="negative-probability"),
        pytest.param({"class_prob": (0.5, 0.5)}, "class_prob must hold 5 number(s), got (0.5, 0.5)", id="two-classes"),
        pytest.param({"contrast_hu": (-65, -145)}, "low ≤ high, got (-65, -145); swap them", id="swapped"),
        pytest.param({"contrast_hu": -100}, "contrast_hu must hold 2 number(s), got -100", id="a-number-for-a-range"),
        pytest.param({"contrast_hu": (float("nan"), 0)}, "contrast_hu must hold finite numbers", id="nan"),
        pytest.param({"contrast_hu": ("a", "b")}, "contrast_hu must hold finite numbers", id="words"),
        pytest.param({"count": ((3, 10), (3, 10), (2, 5), (1, 300))}, "count must lie in [0, 64]", id="300-lesions"),
        pytest.param({"count": ((3, 10), (3, 10), (2, 5.5), (1, 3))}, "count must hold whole numbers", id="half-a-lesion"),
        pytest.param({"count": ((3, 10), (3, 10), (2, 5))}, "count must hold 4×2 number(s)", id="three-groups"),
        pytest.param(
            {"count": ((1, 2), (3, 4), (5,), (1, 2))}, "count must hold 4×2 number(s), got ((1, 2), (3, 4), (5,), (1, 2))", id="ragged"
        ),
        pytest.param({"extent": (0.3, (0.5, 0.7))}, "extent must hold 2 number(s), got (0.3, (0.5, 0.7))", id="too-deep"),
        pytest.param(
            {"elastic_sigma_mm": ((0.5, 1.0), (1.5, 2.0), (3.0, 6.0), (5.0, 10.0))},
            "elastic_sigma_mm must hold whole numbers where elastic_sigma_integer is set, got (1.5, 2.0); round them, or set",
            id="half-an-integer",
        ),
        pytest.param({"radius_mm": ((3, 9), (6, 10), (12, 20), (24, 40))}, "got 9 against 4.0; raise base_radius_mm", id="beyond-its-box"),
        pytest.param({"radius_mm": ((0, 5), (6, 10), (12, 20), (24, 40))}, "radius_mm must lie in [1, 200]", id="radius-0"),
        pytest.param({"edge_sigma_mm": (-1, 2)}, "edge_sigma_mm must lie in [0, 100]", id="negative-edge"),
        pytest.param({"axial_axis": 3}, "axial_axis must lie in [0, 2], got 3", id="fourth-axis"),
        pytest.param({"extent": (0.3, 1.2)}, "extent must lie in [0, 1]", id="beyond-the-organ"),
        pytest.param({"contrast": (-100, -50)}, "got 'contrast'; did you mean 'contrast_hu'?", id="misspelt"),
        pytest.param({"name": "mine"}, "preset field must be one of class_prob,", id="name"),
    ],
)
def test_figures_that_cannot_be_drawn_from_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        presets.get("liver-hu2022", **change)
    with pytest.raises(ValueError, match=re.escape(message)):
        TumorSynthesizer("liver-hu2022", **change)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match=r"preset must be one of .*, got 'liver-hu2023'; did you mean 'liver-hu2022'\?"):
        presets.get("liver-hu2023")
    with pytest.raises(ValueError, match=r"got 'xyzzy'$"):  # nothing is near
        presets.get("xyzzy")


@pytest.mark.parametrize("group", range(4), ids=SIZE_GROUPS)
def test_each_figure_alone_can_be_the_only_one(group):
    """A class of probability one draws from its own row: nothing of the table lands in another's column."""
    chosen = tuple(float(n == group) for n in range(len(SIZE_CLASSES)))
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, class_prob=chosen)
    label = torch.ones(8, 1, 12, 12, 12, dtype=torch.uint8)
    plan = synth.plan(label.float(), label, (1.0, 1.0, 1.0), uid=torch.arange(8))
    records = plan.to_records()
    low, high = PUBLISHED["radius_mm"][group]
    assert {record["base_radius_mm"] for record in records} == {PUBLISHED["base_radius_mm"][group]}
    assert all(low <= radius <= high for record in records for radius in record["radii_mm"])


def test_table_holds_every_figure_of_the_scan_once():
    """Every column of the scan's row is told from its neighbours: a preset of distinct figures comes back distinct."""
    preset = presets.get("liver-hu2022", class_prob=(0.11, 0.13, 0.17, 0.19, 0.4), grain_fine_prob=0.71)
    scan, groups = parameter_table(preset, 0.93, torch.device("cpu"))
    for column in Scan:
        name = column.name.lower()
        if name.endswith(("_mm", "_scale", "_offset", "_gain", "_hu")):
            assert scan[column : column + 2].tolist() == pytest.approx(getattr(preset, name))
    assert scan[Scan.CLASS_END : Scan.CLASS_END + 5].diff(prepend=torch.zeros(1)).tolist() == pytest.approx(preset.class_prob, abs=1e-6)
    assert scan[Scan.ALTER_PROB].item() == pytest.approx(0.93)
    assert scan[Scan.GRAIN_FINE_PROB].item() == pytest.approx(0.71)
    assert groups.shape[0] == len(SIZE_GROUPS)


def test_slots_and_bounds_hold_the_most_that_can_be_drawn():
    preset = presets.get("liver-hu2022", count=((3, 10), (3, 12), (0, 1), (1, 3)))
    assert slots_of(preset) == (10, 12, 5, 3)
    bounds = Bounds.of(preset)
    assert bounds.slot_radius_mm == (4,) * 10 + (8,) * 12 + (16,) * 5 + (32,) * 3
    assert (bounds.density_sigma_mm, bounds.grain_sigma_mm, bounds.edge_sigma_mm) == (15, (3, 8), 2)


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_written_down_read_back_and_overridden(name, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(presets.to_yaml(name))
    assert presets.get(str(path)) == presets.get(name)
    changed = {"contrast_hu": (-50, -40)} if name == "liver-hu2022" else {"cnr_floor": 3.0}
    path.write_text(presets.to_yaml(name, **changed))
    assert presets.get(str(path)).digest() == presets.get(name, **changed).digest() != presets.get(name).digest()
    assert TumorSynthesizer(str(path)).preset == presets.get(name, **changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: 1", "names the preset it starts from"), ("name: livr", "did you mean 'liver'"), ("name: liver\nsize: 3", "got 'size'")],
)
def test_a_preset_file_that_is_none_is_refused(text, message, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        presets.get(str(tmp_path / "bad.yaml"))

"""Figures that nothing would come of: refused where they are given, and let lie where they are a preset's own."""

import re
from dataclasses import replace

import pytest
import torch
from scans import scans

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.idle_figures import _OF_KINDS, _OF_LESION_PRESETS, _OF_PUBLISHED
from gpu_synth.organs import LIVER

ONLY_MIX, NO_MIX = (0.0, 0.0, 0.0, 0.0, 1.0), (0.25, 0.25, 0.25, 0.25, 0.0)
COUNT = ((1, 2), (1, 2), (1, 2), (1, 2))
SMALL = (2.0, 3.0, 4.0, 5.0, 6.0)
CYST = {"name": "cyst", "prob": 1.0, "body": (0.0, 18.0), "target": True}

# preset, what is given, which of it has no effect and what says so, what gives it one
IDLE = [
    (
        "liver",
        {"size_prob_start": (0, 0, 0, 1)},
        "size_prob_start must be left out where curriculum_samples is 0",
        {"curriculum_samples": 9},
    ),
    (
        "liver",
        {"curriculum_samples": 50_000},
        "curriculum_samples must be left out where size_prob_start is size_prob, (0.4, 0.3, 0.2, 0.1), got 50000; give size_prob_start",
        {"size_prob": (0.7, 0.1, 0.1, 0.1)},
    ),
    (
        "liver",
        {"spiculation": (0, 0.3), "growth": True},
        "spiculation must be left out where growth is True, got (0, 0.3)",
        {"growth": False},
    ),
    ("liver-growth", {"axis_ratio": (0.2, 0.3)}, "axis_ratio must be left out where growth is True", {"growth": False}),
    ("liver-growth", {"lobulation": (0.2, 0.3)}, "lobulation must be left out where growth is True", {"growth": False}),
    ("liver-growth", {"irregularity": (0.2, 0.3)}, "irregularity must be left out where growth is True", {"growth": False}),
    ("liver-growth", {"halo": (0.1, 0.2)}, "halo must be left out where growth is True", {"growth": False}),
    ("liver", {"halo_mm": (5, 9)}, "halo_mm must be left out where halo is (0, 0), got (5, 9); give halo", {"halo": (-0.2, 0.0)}),
    (
        "liver",
        {"edge_share": 0.2, "edge_mm": (1, 1)},
        "edge_share must be left out where edge_mm is one width, (1, 1)",
        {"edge_mm": (1, 2)},
    ),
    ("kidney", {"avoid_vessels_to_mm": 5.0}, "avoid_vessels_to_mm must be left out where avoid_vessels is False", {"avoid_vessels": True}),
    ("pancreas", {"cluster_mm": 5.0}, "cluster_mm must be left out where cluster_prob is 0", {"cluster_prob": 0.5}),
    (
        "liver",
        {"cluster_prob": 0.9, "count": (1, 1)},
        "cluster_prob must be left out where scans have one lesion, count",
        {"count": (1, 2)},
    ),
    ("kidney", {"satellites": (1, 2)}, "satellites must be left out where satellite_prob is 0", {"satellite_prob": 0.5}),
    ("kidney", {"satellite_mm": 9.0}, "satellite_mm must be left out where satellite_prob is 0", {"satellite_prob": 0.5}),
    (
        "liver",
        {"satellite_prob": 0.9, "size_mm": SMALL},
        "satellite_prob must be left out where no lesion has the radius that satellites need, satellite_from_mm 10.0, got 0.9; lower",
        {"satellite_from_mm": 4.0},
    ),
    (
        "liver",
        {"satellite_prob": 0.9, "size_prob": (0.5, 0.5, 0.0, 0.0)},
        "satellite_prob must be left out where no lesion has the radius",
        {"curriculum_samples": 9},
    ),
    ("kidney", {"surface_mm": (1, 2)}, "surface_mm must be left out where cirrhosis_prob is 0, got (1, 2)", {"cirrhosis_prob": 0.5}),
    ("liver", {"nodule_hu": (1, 2), "cirrhosis_prob": 0.0}, "nodule_hu must be left out where", {"cirrhosis_prob": 0.1}),
    ("liver-hu2022", {"mix_count": COUNT, "class_prob": NO_MIX}, "mix_count must be left out where no scan is", {"class_prob": (0.2,) * 5}),
    ("liver-hu2022", {"count": COUNT, "class_prob": ONLY_MIX}, "count must be left out where every scan is", {"class_prob": (0.2,) * 5}),
    (
        "liver-hu2022",
        {"grain_fine_sigma_mm": (3, 4), "grain_fine_prob": 0.0},
        "grain_fine_sigma_mm must be left out where grain_fine_prob is 0",
        {"grain_fine_prob": 0.1},
    ),
    (
        "liver-hu2022",
        {"grain_coarse_sigma_mm": (3, 4), "grain_fine_prob": 1.0},
        "grain_coarse_sigma_mm must be left out where grain_fine_prob is 1",
        {"grain_fine_prob": 0.9},
    ),
    ("liver", {"kinds": [{**CYST, "core_share": (0.1, 0.2)}]}, "core_share of kind 'cyst' must be left out where core is (0, 0)", None),
    ("liver", {"kinds": [{**CYST, "speck_hu": (9, 10)}]}, "speck_hu of kind 'cyst' must be left out where speck_share is 0", None),
    ("liver", {"kinds": [{**CYST, "speck_share": 0.1}]}, "speck_share of kind 'cyst' must be left out where speck_hu is", None),
    ("liver", {"kinds": [{**CYST, "capsule_mm": 1.2}]}, "capsule_mm of kind 'cyst' must be left out where capsule_hu is", None),
]
KIND_WITH_ALL = {
    **CYST,
    "core": (1, 2),
    "core_share": (0.1, 0.2),
    "speck_hu": (9, 10),
    "speck_share": 0.1,
    "capsule_hu": (1, 2),
    "capsule_mm": 1.2,
}


@pytest.mark.parametrize(("preset", "given", "says", "mended"), IDLE, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_a_figure_without_effect_is_refused_and_its_mend_mends(preset, given, says, mended):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        TumorSynthesizer(preset, **given)
    assert re.fullmatch(r"\w+( of kind '\w+')? must be left out where .+, got .+; .+", str(error.value))
    TumorSynthesizer(preset, **{**given, **({"kinds": [KIND_WITH_ALL]} if mended is None else mended)})


def test_every_law_is_tried():
    told = {says.split(" must be")[0].split(" of kind")[0] for _, _, says, _ in IDLE}
    for law in (*_OF_LESION_PRESETS, *_OF_PUBLISHED, *_OF_KINDS):
        assert told & set(law.names), law


@pytest.mark.parametrize("name", presets.names())
def test_presets_own_figures_may_lie_idle(name, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(presets.to_yaml(name))  # every figure, used or not
    assert presets.get(str(path)) == presets.get(name)


def test_what_a_file_gives_may_be_switched_off():
    """Ablations of a preset of one's own: what it gives is a figure of the preset then, and no one asks for it anew."""
    mine = presets.get("liver", surface_mm=(0.3, 0.4), satellites=(1, 2))
    without = presets.get(mine, cirrhosis_prob=0.0, satellite_prob=0.0)
    assert without == replace(LIVER, surface_mm=(0.3, 0.4), satellites=(1, 2), cirrhosis_prob=0.0, satellite_prob=0.0)
    with pytest.raises(ValueError, match="surface_mm must be left out"):
        presets.get(mine, cirrhosis_prob=0.0, surface_mm=(0.1, 0.2))


def test_a_synthesizer_takes_a_preset_and_its_recipe_makes_another_one_like_it():
    image, label = scans(1, (24, 24, 24))
    mine = presets.get("liver", surface_mm=(0.3, 0.4), count=(2, 2))
    synth = TumorSynthesizer(mine, prob=1.0, seed=3, cirrhosis_prob=0.0)
    made = torch.ops.gpu_synth.synthesize(image, label, torch.arange(1), [1.0] * 3, 3, synth.recipe)
    assert torch.equal(made[0], synth(image, label, (1.0, 1.0, 1.0), torch.arange(1))[0])
    with pytest.raises(ValueError, match="preset must be a name, a YAML file or a preset, got int; such as 'liver'"):
        TumorSynthesizer(3)

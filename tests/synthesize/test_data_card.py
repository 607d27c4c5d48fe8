"""The data card says what the records say, without a date, and what the data must not be used for."""

import json

import numpy as np
import pytest
from ct_files import organ, write, write_case
from made_volumes import SMALL, edited, run, scans
from PIL import Image

from gpu_synth.synthesize.data_card import NOT_FOR, write_card
from gpu_synth.synthesize.run import read_all, synthesize
from gpu_synth.synthesize.volume import read_record


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set of two presets, with a refused case and an edited plan."""
    folder = tmp_path_factory.mktemp("card")
    scans(folder, "a", "b")
    write_case(folder, "empty")
    write(folder / "labels" / "empty.nii.gz", organ() * 0)
    run(folder, variants=2)
    own = {"images": f"{folder}/images/a.nii.gz", "labels": f"{folder}/labels/a.nii.gz"}
    synthesize(out=f"{folder}/published", **own, preset="liver-hu2022", overrides={"class_prob": (1, 0, 0, 0, 0)})
    return folder


def facts(folder):
    return json.loads((folder / "data-card.json").read_text())


def test_it_counts_what_is_there(made):
    card, records = facts(made / "out"), [read_record(made / "out", name) for name in ("a_v0", "a_v1", "b_v0", "b_v1")]
    lesions = [lesion for record in records for lesion in record["lesions"]]
    assert (card["cases"], card["volumes"], card["lesions"], card["edited_plans"]) == (2, 4, len(lesions), 0)
    assert card["refused"].keys() == {"empty_v0", "empty_v1"}
    radii = np.array([lesion["came"]["equivalent_radius_mm"] for lesion in lesions])
    assert list(card["lesions_by_radius_mm"].values())[:2] == [(radii < 5).sum(), ((radii >= 5) & (radii < 10)).sum()]
    assert sum(card["lesions_by_radius_mm"].values()) == sum(card["lesions_by_kind"].values()) == len(lesions)
    spread = card["statistics"]["equivalent radius, mm"]
    assert (spread["least"], spread["median"], spread["most"]) == pytest.approx((radii.min(), np.median(radii), radii.max()), abs=1e-3)
    contrast = card["statistics"]["contrast to the organ, HU"]
    assert contrast["least"] == pytest.approx(-max(lesion["came"]["mean_drop_hu"] for lesion in lesions), abs=1e-3)
    share = card["statistics"]["tumour, % of the organ"]
    assert share["most"] == pytest.approx(max(100 * record["tumor_ml"] / record["organ_ml"] for record in records), abs=1e-3)
    (way,) = card["made_by"]
    assert way["volumes"] == 4
    assert way["recipe"]["preset"]["size_prob"] == [1, 0, 0, 0]
    assert way["recipe"]["seed"] == 0
    assert {"torch", "numpy"} <= way["versions"].keys()
    assert card["axes"] == {"LPS": 2, "RAS": 2}


def test_the_page_holds_what_people_ask_for(made):
    page = (made / "out" / "data-card.md").read_text()
    assert page.index("Every tumour in these images is synthetic") < page.index("What is in it")
    assert all(use in page for use in NOT_FOR)
    assert "size_prob: [1, 0, 0, 0]" in page, "the preset in full"
    assert "- empty_v0: " in page
    assert "4 volumes of 2 cases" in page
    for line in page.splitlines():
        if line.startswith("!["):
            picture = Image.open(made / "out" / line.partition("(")[2].rstrip(")"))
            assert np.asarray(picture.convert("L")).std() > 5, "something is drawn"
    assert page.count("![") == len(list((made / "out" / "data-card").iterdir())) == 4


def test_lesions_without_kinds_are_the_published_laws(made):
    card = facts(made / "published")
    assert card["lesions_by_kind"].keys() == {"published law"}
    assert "1 volume of 1 case," in (made / "published" / "data-card.md").read_text()


def test_it_is_the_same_whoever_writes_it(made):
    files = [*(made / "out" / "data-card").iterdir(), made / "out" / "data-card.json", made / "out" / "data-card.md"]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    write_card(made / "out", read_all(made / "out"), rank=3)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before, "what is the same is not written again"
    files[0].write_bytes(b"half")
    write_card(made / "out", read_all(made / "out"), rank=3)
    assert [path.read_bytes() for path in files] == [content for content, _ in before]


def test_each_way_of_making_is_told(made, tmp_path):
    edited(made, tmp_path, lambda plan: plan["lesions"][0].update(contrast_hu=-50.0), of="a_v0")
    root = tmp_path / "edited"
    synthesize(out=str(root), images=f"{made}/images/b.nii.gz", labels=f"{made}/labels/b.nii.gz", overrides=SMALL, seed=3)
    card, page = facts(root), (root / "data-card.md").read_text()
    assert card["edited_plans"] == 1
    assert len(card["made_by"]) == 2
    assert {way["recipe"]["seed"] for way in card["made_by"]} == {0, 3}
    assert "preset liver, its plans edited" in page


def test_a_data_set_of_refused_volumes_has_a_card_too(tmp_path):
    write_case(tmp_path, "empty")
    run(tmp_path)
    assert len(list((tmp_path / "out" / "data-card").iterdir())) == 4
    write(tmp_path / "labels" / "empty.nii.gz", organ() * 0)
    run(tmp_path)
    assert not list((tmp_path / "out" / "data-card").iterdir()), "plots of what is gone are gone"
    assert facts(tmp_path / "out")["lesions"] == 0
    page = (tmp_path / "out" / "data-card.md").read_text()
    assert "0 volumes of 0 cases" in page
    assert "![" not in page

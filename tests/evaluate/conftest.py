"""Scans with references, two models' predictions, and CTs: small, and scored by hand in test_evaluate."""

from pathlib import Path

import numpy as np
import pytest
from masks import LARGE, SHAPE, A, B, organ, write


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Five references: A found beside a false B; A missed; no tumour, none predicted; no tumour, one predicted; A large one half found."""
    for folder, tumors in {
        "references": ((A,), (A,), (), (), (LARGE,)),
        "predictions": ((A, B), (), (), (B,), (((8, 16), (6, 20), (5, 15)),)),
        "other": ((B,), (A,), (B,), (B,), ()),
    }.items():
        for n, boxes in enumerate(tumors):
            write(tmp_path / folder, f"case{n}" + ("_ct_seg" if folder != "references" else "_liver"), organ(boxes))
    for n in range(5):
        hu = np.where(organ(), 100, -50) + np.random.default_rng(n).normal(0, 10, SHAPE)
        write(tmp_path / "images", f"case{n}_ct", hu.astype(np.int16))
    return tmp_path

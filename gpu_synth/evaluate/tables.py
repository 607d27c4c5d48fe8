"""The scans and the lesions as CSV."""

import csv
import math
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from gpu_synth.evaluate.case import Case
from gpu_synth.evaluate.lesions import SIZES
from gpu_synth.files import whole_file

Row = dict[str, Any]


def case_rows(cases: Sequence[Case], refused: Sequence[tuple[str, str]], names: Sequence[str]) -> Iterator[Row]:
    """A row a scan and model; a row for each scan that was refused."""
    for case in cases:
        for name, scores in zip(names, case.models, strict=True):
            yield {
                "case": case.name,
                "model": name,
                "status": "no prediction" if scores.missing else "scored",
                "dsc_tumor": round(scores.tumor.dsc, 6),
                "nsd_tumor": round(scores.tumor.nsd, 6),
                "dsc_organ": round(scores.organ.dsc, 6) if case.organ_scored else "",
                "nsd_organ": round(scores.organ.nsd, 6) if case.organ_scored else "",
                "tumor_empty": int(case.tumor_ml == 0),
                "organ_empty": int(case.organ_ml == 0),
                "tumor_ml": round(case.tumor_ml, 4),
                "predicted_tumor_ml": round(scores.tumor_ml, 4),
                "organ_ml": round(case.organ_ml, 4),
                "predicted_organ_ml": round(scores.organ_ml, 4),
                "lesions": scores.count("reference"),
                "lesions_found": scores.count("reference", matched=True),
                "predicted_lesions": scores.count("predicted"),
                "false_positives": scores.count("predicted", matched=False),
                "notes": "; ".join(scores.notes),
            }
    yield from ({"case": name, "status": "refused", "notes": why} for name, why in refused)


def lesion_rows(cases: Sequence[Case], names: Sequence[str]) -> Iterator[Row]:
    """A row a lesion, of the reference and of each model's prediction."""
    for case in cases:
        for name, scores in zip(names, case.models, strict=True):
            for lesion in scores.lesions:
                yield {
                    "case": case.name,
                    "model": name,
                    "kind": lesion.kind,
                    "lesion": lesion.number,
                    **{f"{axis}_mm": round(mm, 3) for axis, mm in zip("xyz", lesion.centre_mm, strict=True)},
                    "volume_mm3": round(lesion.volume_mm3, 3),
                    "radius_mm": round(lesion.radius_mm, 3),
                    "radius_bin_mm": SIZES[lesion.size],
                    "matched": int(lesion.matched),
                    "score": "" if math.isnan(lesion.score) else round(lesion.score, 4),
                }


def write_csv(path: Path, rows: Iterator[Row]) -> None:
    """Write rows, whose first tells the columns; the file is whole or absent."""
    text, kept = StringIO(newline=""), list(rows)
    writer = csv.DictWriter(text, list(kept[0]) if kept else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    with whole_file(path) as stream:
        stream.write(text.getvalue().encode())

"""What a trained network makes of the held-out scans, by the metrics of `gpu_synth.evaluate`."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from gpu_synth.bench.learning.scans import TestScan
from gpu_synth.evaluate.lesions import SIZES, find_lesions
from gpu_synth.evaluate.overlap import overlap
from gpu_synth.trainers.augment import window
from gpu_synth.trainers.module import SegmentationModule

WINDOW_HU = (-21.0, 189.0)

Record = dict[str, Any]


@torch.no_grad()
def score(module: SegmentationModule, scans: Iterable[TestScan], device: torch.device) -> list[Record]:
    """Segment scans and score them.

    Returns:
        A record a scan: overlap of tumour and organ, false positives, and of each size of lesion how many were found, of how many.
    """
    module.to(device).eval()
    return [_record(scan, segment(module, scan, device)) for scan in scans]


def segment(module: SegmentationModule, scan: TestScan, device: torch.device) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Class of each voxel of a scan, (i, j, k)."""
    label = module.segment(window(scan.image.to(device), WINDOW_HU), scan.spacing_mm)
    return label[0, 0].cpu().numpy()


def _record(scan: TestScan, predicted: np.ndarray[Any, np.dtype[np.uint8]]) -> Record:
    reference = scan.label[0, 0].numpy()
    tumor, organ = (overlap(reference >= least, predicted >= least, scan.spacing_mm) for least in (2, 1))
    lesions = find_lesions(reference == 2, predicted == 2, np.diag([*scan.spacing_mm, 1.0]))
    sizes = [[lesion for lesion in lesions if lesion.kind == "reference" and lesion.size == size] for size in range(len(SIZES))]
    return {
        "set": scan.group,
        "scan": scan.name,
        "dsc_tumor": round(tumor.dsc, 4),
        "nsd_tumor": round(tumor.nsd, 4),
        "dsc_organ": round(organ.dsc, 4),
        "false_positives": sum(lesion.kind == "predicted" and not lesion.matched for lesion in lesions),
        "found": [sum(lesion.matched for lesion in of_size) for of_size in sizes],
        "lesions": [len(of_size) for of_size in sizes],
    }

"""`gpu-synth nnunet-fingerprint`: what nnU-Net measures of a data set, with synthetic tumours in its organs.

nnU-Net clips a CT to the 0.5 and 99.5 percentiles of its foreground before training. Of healthy organs alone, these cut dark lesions off.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from gpu_synth import TumorSynthesizer
from gpu_synth.manifest import write_json
from gpu_synth.trainers.nnunet_dataset import nnunet_folder
from gpu_synth.trainers.nnunet_options import MARK, mark, synthesizer

MARGIN_VOX = 16  # around the organ, so that nothing that synthesis looks at is cut
DRAWS = 16  # of lesions at least, shared out among the cases: a few lesions tell little of what a preset draws
VOXELS_A_DRAW = 10_000


def nnunet_fingerprint(*, dataset: int, cases: int = 50, processes: int = 8) -> None:
    """Extract an nnU-Net data set's fingerprint, and widen its limits of HU to those of synthetic lesions.

    It takes the place of nnUNetv2_extract_fingerprint. The environment variable nnUNet_tumorSynth says what is synthesised, as in training.

    Args:
        dataset: number of the data set in $nnUNet_raw.
        cases: most cases that tumours are synthesised into.
        processes: processes for nnU-Net's own part.

    Raises:
        ValueError: An argument is out of range, or no case can hold a lesion.
        ImportError: nnU-Net is not installed.
    """
    try:
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    except ModuleNotFoundError as error:
        raise ImportError(f"nnU-Net must be installed, got {error}; pip install 'gpu-synth[nnunet]'") from error
    raw, preprocessed = nnunet_folder("nnUNet_raw"), nnunet_folder("nnUNet_preprocessed")
    if len(found := sorted(raw.glob(f"Dataset{dataset:03d}_*"))) != 1:
        names = ", ".join(folder.name for folder in found) or "none"
        raise ValueError(
            f"dataset must be the number of one folder in {raw}, got {dataset} and {names}; gpu-synth nnunet-dataset makes one"
        )
    if cases < 1:
        raise ValueError(f"cases must be at least 1, got {cases}")
    synth = synthesizer({}, axial_axis=0, prob=1.0)
    extractor = DatasetFingerprintExtractor(found[0].name, processes)
    extractor.run(overwrite_existing=True)
    paths = list(extractor.dataset.values())
    chosen = [paths[n] for n in np.unique(np.linspace(0, len(paths) - 1, min(cases, len(paths))).round().astype(int))]
    reader = determine_reader_writer_from_dataset_json(extractor.dataset_json, chosen[0]["images"][0], verbose=False)()
    lesions = []
    draws = -(-DRAWS // len(chosen))
    for n, case in enumerate(track(chosen, "synthesising", console=Console(stderr=True))):
        image, properties = reader.read_images(case["images"])
        label, _ = reader.read_seg(case["label"])
        lesions += [lesion_hu(synth, image, label, properties["spacing"], n * draws + uid) for uid in range(draws)]
    widen(preprocessed / found[0].name / "dataset_fingerprint.json", np.concatenate(lesions), synth)


def lesion_hu(
    synth: TumorSynthesizer, image: NDArray[np.floating[Any]], label: NDArray[np.integer[Any]], spacing_mm: Any, uid: int
) -> NDArray[np.float32]:
    """HU of voxels of a case's lesions, synthetic or its own; none where there is no place for one.

    Args:
        synth: What to synthesise with.
        image: HU `(1, z, y, x)`.
        label: Label of the same shape.
        spacing_mm: Along z, y, x.
        uid: Ordinal of the draw.
    """
    organ = np.isin(label[0], (synth.organ_label, synth.tumor_label))
    if not organ.any():
        return np.empty(0, np.float32)
    at = [np.flatnonzero(organ.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = (slice(None), *(slice(max(int(v[0]) - MARGIN_VOX, 0), int(v[-1]) + MARGIN_VOX + 1) for v in at))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hu = torch.from_numpy(np.ascontiguousarray(image[box], np.float32))[None].to(device)
    old = torch.from_numpy(np.ascontiguousarray(label[box], np.int16))[None].to(device)
    hu, new = synth(hu, old, tuple(float(mm) for mm in spacing_mm), torch.tensor([uid], device=device))
    values: NDArray[np.float32] = hu[new == synth.tumor_label].float().cpu().numpy()
    return np.random.default_rng(uid).choice(values, VOXELS_A_DRAW) if len(values) else values


def widen(path: Path, lesions: NDArray[np.float32], synth: TumorSynthesizer) -> None:
    """Move a fingerprint's limits of HU out to those of lesions; its mean and standard deviation stay.

    Args:
        path: `dataset_fingerprint.json`.
        lesions: HU of lesion voxels.
        synth: What they were made with.

    Raises:
        ValueError: There is no lesion, so that there is nothing to widen to.
    """
    if not len(lesions):
        raise ValueError("organ must hold a lesion in one case at least, got none; name its number: nnUNet_tumorSynth='{organ_label: 1}'")
    record = json.loads(path.read_text())
    hu = record["foreground_intensity_properties_per_channel"]["0"]
    low, high = (float(x) for x in np.percentile(lesions, (0.5, 99.5)))
    before = hu["percentile_00_5"], hu["percentile_99_5"]
    hu["percentile_00_5"], hu["percentile_99_5"] = min(before[0], low), max(before[1], high)
    hu["min"], hu["max"] = min(hu["min"], float(lesions.min())), max(hu["max"], float(lesions.max()))
    hu[MARK] = mark(synth)
    write_json(path, record)
    Console().print(
        f"healthy organs: {before[0]:.0f} to {before[1]:.0f} HU; lesions of preset {synth.preset.name!r}: {low:.0f} to {high:.0f} HU; "
        f"nnU-Net will clip to {hu['percentile_00_5']:.0f} to {hu['percentile_99_5']:.0f} HU\n"
        "now run nnUNetv2_plan_and_preprocess, without --clean, which would measure anew",
        soft_wrap=True,
    )

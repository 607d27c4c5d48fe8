"""Where the scans of the experiment come from: phantoms and healthy CTs to train on, others with tumours to be tested on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpu_synth import TumorSynthesizer
from gpu_synth.bench.learning.settings import Scale
from gpu_synth.files import whole_file
from gpu_synth.manifest import Case, Manifest, read_patch
from gpu_synth.phantom import PHASES, phantom
from gpu_synth.prepare.run import prepare
from gpu_synth.trainers.scans import HELD_OUT_UID
from gpu_synth.volumes import save_nifti

FIELD_MM = (320.0, 260.0, 220.0)  # of a phantom: its liver, and what lies around it
MARGIN_MM = 8.0  # around the organ, in the scans tested
TEST_PHANTOMS = 1000  # uids of phantoms that are not trained on begin here
SETS = {  # a set's name: whether its scans are phantoms, CTs or both, and whose lesions they hold
    "phantoms": (("phantom",), "liver"),
    "CT": (("ct",), "liver"),
    "transfer: liver-hu2022": (("phantom", "ct"), "liver-hu2022"),
    "transfer: liver-growth": (("phantom", "ct"), "liver-growth"),
}


@dataclass(frozen=True)
class Scans:
    """What was prepared.

    Attributes:
        manifest: All scans, on one spacing.
        held_out: Names of those that are not trained on: phantoms, then the CT.
    """

    manifest: Manifest
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class TestScan:
    """A held-out scan with tumours.

    Attributes:
        group: One of `SETS`.
        name: Of the scan, and the number of its plan.
        image: HU, (1, 1, i, j, k).
        label: 0 background, 1 organ, 2 tumour.
        spacing_mm: Along i, j, k.
    """

    group: str
    name: str
    image: Tensor
    label: Tensor
    spacing_mm: tuple[float, float, float]


def prepare_scans(folder: Path, ct_dir: Path, held_out_ct: str, scale: Scale) -> Scans:
    """Draw phantoms, find CTs (`*_ct.nii.gz` and, beside them, `*_liver.nii.gz`), and prepare all of them; what is there already is kept.

    Args:
        folder: Where to write.
        ct_dir: Folder of healthy CTs.
        held_out_ct: Name of the one that is not trained on, without `_ct.nii.gz`.
        scale: Spacing, and how many phantoms.

    Raises:
        ValueError: The CT is not there, or no other is, or a scan cannot be used.
    """
    found = sorted(path.name.removesuffix("_ct.nii.gz") for path in ct_dir.glob("*_ct.nii.gz"))
    if held_out_ct not in found or len(found) < 2:
        raise ValueError(f"held_out_ct must be a CT of {ct_dir} and not its only one, got {held_out_ct!r}; there are {found}")
    uids = [*range(scale.phantoms), *range(TEST_PHANTOMS, TEST_PHANTOMS + scale.scans)]
    names = [_draw(folder / "phantoms", uid, scale.spacing_mm) for uid in uids]
    files = [(folder / "phantoms" / f"{name}.nii.gz", folder / "phantoms" / f"{name}_liver.nii.gz") for name in names]
    files += [(ct_dir / f"{name}_ct.nii.gz", ct_dir / f"{name}_liver.nii.gz") for name in found]
    listed = [{"image": str(image.absolute()), "label": str(label.absolute())} for image, label in files]
    (folder / "scans.json").write_text(json.dumps({"training": listed}))
    manifest = prepare(datalist=folder / "scans.json", out=folder / "prepared", spacing_mm=(scale.spacing_mm,) * 3)
    if manifest.refused:
        raise ValueError(f"ct_dir must hold scans that can be used, got {dict(manifest.refused)}")
    return Scans(manifest, (*names[scale.phantoms :], f"{held_out_ct}_ct"))


def _draw(folder: Path, uid: int, spacing_mm: float) -> str:
    """Write a phantom, if it is not there; tell its name. Every second one is without contrast."""
    name, phase = f"phantom{uid:04d}", PHASES[uid % len(PHASES)]
    image, label = folder / f"{name}.nii.gz", folder / f"{name}_liver.nii.gz"
    if not label.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = [round(mm / spacing_mm) for mm in FIELD_MM]
        drawn = phantom(uid, shape, (spacing_mm,) * 3, phase)
        affine = np.diag([*[spacing_mm] * 3, 1.0])
        save_nifti(image, drawn.image[0, 0].round().to(torch.int16).numpy(), affine)
        save_nifti(label, drawn.label[0, 0].numpy(), affine)
    return name


def test_scans(scans: Scans, scale: Scale, folder: Path) -> Iterator[TestScan]:
    """Put tumours into the held-out scans, under uids that never change; kept in a folder for the next run.

    A plan belongs to the whole organ. Each phantom is used once in a set, the CT under as many plans as there are scans to fill.
    """
    phantoms, ct = scans.held_out[:-1], scans.held_out[-1]
    for number, (group, (sources, preset)) in enumerate(SETS.items()):
        synthesizer = TumorSynthesizer(preset, prob=1.0, seed=0, scope="volume")
        share = scale.scans // len(sources)
        names = [name for source in sources for name in (phantoms[:share] if source == "phantom" else [ct] * share)]
        for n, name in enumerate(names):
            yield _with_tumors(scans.manifest, name, synthesizer, group, HELD_OUT_UID + 1000 * number + n, folder)


def _with_tumors(manifest: Manifest, name: str, synthesizer: TumorSynthesizer, group: str, uid: int, folder: Path) -> TestScan:
    """One scan, cropped to its organ."""
    case, plan = manifest.case(name), uid - HELD_OUT_UID
    path = folder / f"{name}-plan{plan:04d}.pt"
    if not path.exists():
        healthy, organ = (x[None] for x in read_patch(manifest, case, *_box(case)))
        image, label = synthesizer(healthy.to(torch.float32), organ, case.spacing_mm, torch.tensor([uid]))
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as stream:
            torch.save((image, label), stream)
    image, label = torch.load(path, weights_only=True)
    return TestScan(group, f"{name}-plan{plan:04d}", image, label, case.spacing_mm)


def _box(case: Case) -> tuple[Sequence[int], Sequence[int]]:
    """First voxel and size of the organ with its margin."""
    margin = [round(MARGIN_MM / mm) for mm in case.spacing_mm]
    start = [max(0, first - m) for first, m in zip(case.organ_bbox_vox[0], margin, strict=True)]
    end = [min(n, last + m) for last, m, n in zip(case.organ_bbox_vox[1], margin, case.shape, strict=True)]
    return start, [b - a for a, b in zip(start, end, strict=True)]

"""What brings patches to the device: the crop alone, and the feeds of a training, from memory and from disk."""

import atexit
import math
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_synth.bench.case import ORGAN, ORGAN_HU, SEED, SPACING_MM, Case, Setting
from gpu_synth.bench.timing import one_ahead
from gpu_synth.kernels import crop
from gpu_synth.manifest import Manifest

SCANS = 4
ALL_GIB = 64.0  # more than the scans have
ENDLESS = 1 << 40


def crops(device: torch.device, setting: Setting) -> Case:
    """Patches out of a volume a fifth larger along each axis, from places that are aligned to nothing."""
    shape, samples = [n + n // 5 for n in setting.whole_vox], setting.samples
    voxels = math.prod(shape)
    padded = -(-voxels // crop.WORD_VOX) * crop.WORD_VOX
    image, label = (torch.zeros(padded, dtype=dtype, device=device) for dtype in (torch.int16, torch.uint8))
    packed = crop.Packed(
        image, label, torch.zeros(1, dtype=torch.int64, device=device), torch.tensor([shape], dtype=torch.int32, device=device)
    )
    place = torch.tensor([[0, n % 7, n % 5, n % 11] for n in range(samples)], device=device)
    used = samples * math.prod(setting.whole_vox)
    read = [x.new_empty(used) for x in (image, label)]
    return Case(lambda: crop.crop(packed, place, setting.whole_vox, setting.backend or "torch"), (read, place))


def resident(device: torch.device, setting: Setting) -> Case:
    """Patches cut out of scans on the device."""
    return _feed(device, setting, ALL_GIB)


def from_disk(device: torch.device, setting: Setting) -> Case:
    """The same patches, read by workers and moved to the device."""
    return _feed(device, setting, 0.0)


def _feed(device: torch.device, setting: Setting, resident_gib: float) -> Case:
    """Batches of the data module's own feed, without end; with synthesis where the source is ours."""
    from torch.utils.data import DataLoader

    from gpu_synth.bench.synthesis import synthesizer
    from gpu_synth.trainers.bank import VolumeBank
    from gpu_synth.trainers.data import collate
    from gpu_synth.trainers.patches import PatchDataset, PatchLocator, PatchPolicy
    from gpu_synth.trainers.step import SynthesisStep

    manifest, workers = _scans(setting.whole_vox), setting.workers or 0
    bank = VolumeBank(manifest, manifest.cases, device, resident_gib, setting.backend or "auto")
    dataset = PatchDataset(PatchLocator(manifest, manifest.cases, setting.whole_vox, SEED, PatchPolicy()), bank.resident)
    options: dict[str, Any] = {"sampler": range(ENDLESS), "collate_fn": collate, "pin_memory": device.type == "cuda"}
    batches = iter(DataLoader(dataset, setting.samples, num_workers=workers, **options))
    step, wait = SynthesisStep(synthesizer(setting)) if setting.source == "ours" else None, one_ahead(device)

    def run() -> tuple[Tensor, ...]:
        batch = {name: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for name, x in next(batches).items()}
        image, label = bank.patches(batch, setting.whole_vox)
        made = step(image, label, batch["spacing_mm"], batch["uid"], batch["aimed"]) if step is not None else (image, label)
        wait()
        return made

    turn = max(1, workers)  # workers that started together deliver together
    return Case(run, loop=True, warm_up=2 * turn + 2, cycle=turn)


@cache
def _scans(patch_vox: tuple[int, int, int]) -> Manifest:
    """Prepared scans of four by four by two patches, a third of each organ, in a folder that is removed at the end."""
    from gpu_synth.conform import describe
    from gpu_synth.sources import Source
    from gpu_synth.volumes import Volume, save_nifti

    root = Path(mkdtemp(prefix="gpu-synth-bench-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    shape = [n * times for n, times in zip(patch_vox, (4, 4, 2), strict=True)]
    i, j, k = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in shape)
    label = ((i[:, None, None] / 0.8) ** 2 + (j[:, None] / 0.8) ** 2 + (k / 0.9) ** 2 < 1).astype(np.uint8) * np.uint8(ORGAN)
    cases = []
    for number in range(SCANS):
        hu = np.random.default_rng(number).integers(-30, 30, shape, dtype=np.int16) + label * np.int16(ORGAN_HU)
        name, affine = f"scan{number}", np.diag([*SPACING_MM, 1.0])
        case = describe(Source(name, root / name, None), Volume(hu, affine), label, ())
        (root / name).mkdir()
        save_nifti(root / case.image, hu, affine)
        save_nifti(root / case.label, label, affine)
        cases.append(case)
    manifest = Manifest(root, {"spacing_mm": list(SPACING_MM)}, tuple(cases))
    manifest.save()
    return manifest

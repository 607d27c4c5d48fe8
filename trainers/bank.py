"""Healthy volumes resident on the device, and what becomes of a batch of sample ids there: patches."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from gpu_synth.kernels._launch import resolve
from gpu_synth.kernels.crop import WORD_VOX, Packed, crop
from gpu_synth.manifest import Case, Manifest, map_image, map_label
from gpu_synth.trainers.patches import Vox
from gpu_synth.trainers.step import Whole

BYTES_A_VOXEL = 3  # int16 HU and uint8 label
FREE_SHARE = 0.5  # of a CUDA device's free memory, where no budget is told: network, activations and synthesis take the other half


class VolumeBank:
    """Prepared scans on the device, as far as a budget goes: int16 HU and uint8 label, each in one buffer.

    The loader then hands over where patches are, and they are cut out here, by one kernel. Scans beyond the budget stay memory-mapped
    files, which are read ahead by the loader's workers, and of which only patches travel, through pinned memory. Volumes do not take
    turns on the device: a 96³ patch has a fortieth of a scan's bytes, so that a scan would have to serve forty patches before it paid to
    send it; and until it left, patches would have to come from the scans that are there, so that which patch a uid is would hang on the
    budget. Pinning whole scans would take them from the page cache that all processes of a machine share.

    Args:
        manifest: Prepared data.
        cases: Scans, those that come first preferred.
        device: Where.
        resident_gib: Budget; None: half of what a CUDA device has free; nothing elsewhere, as on a CPU the page cache is memory already.
        backend: "cupy", "torch" or "auto".
    """

    def __init__(
        self, manifest: Manifest, cases: Sequence[Case], device: torch.device, resident_gib: float | None, backend: str = "auto"
    ) -> None:
        chosen = _within(cases, _budget_bytes(device, resident_gib))
        self.resident = {number: row for row, number in enumerate(chosen)}
        self.backend = resolve(backend, device)
        self.volumes = _packed(manifest, [cases[number] for number in chosen], device)
        self._tell(cases, device)

    def _tell(self, cases: Sequence[Case], device: torch.device) -> None:
        here = [case for number, case in enumerate(cases) if number in self.resident]
        there = [case for number, case in enumerate(cases) if number not in self.resident]
        said = [f"{len(here)} of {len(cases)} scans are resident on {device} ({_gib(here):.3g} GiB)" if here else ""]
        said += [
            f"{len(there)}{'' if here else ' scans'} stay on disk ({_gib(there):.3g} GiB): the loader reads their patches" if there else ""
        ]
        rank_zero_info("; ".join(part for part in said if part))

    def patches(self, batch: dict[str, Any], patch_vox: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Bring the batch's patches together: those cut out here, and those that have travelled; nothing is read back.

        Args:
            batch: As `PatchDataset` and `collate` make it, on the device.
            patch_vox: Patch shape.

        Returns:
            HU float32 and label uint8, `(b, 1, i, j, k)`, in the order of the batch.
        """
        if "place" not in batch:
            return batch["image"].to(torch.float32), batch["label"]
        cut = crop(self.volumes, batch["place"], patch_vox, self.backend)
        image, label = cut.image[:, None], cut.label[:, None]
        if "image" not in batch:
            return image, label
        here, travelled = zip(image, label, strict=True), zip(batch["image"].to(torch.float32), batch["label"], strict=True)
        images, labels = zip(*(next(here if case in self.resident else travelled) for case in batch["case"]), strict=True)
        return torch.stack(images), torch.stack(labels)

    def wholes(self, batch: dict[str, Any]) -> list[Whole | None]:
        """What the plans of a batch are made in: each sample's organ with a margin; None for a patch that shows nothing of it."""
        return [self._whole(*sample) for sample in zip(batch["case"], batch["start_vox"], batch["whole"], strict=True)]

    def _whole(self, case: int, start_vox: Vox, whole: tuple[tuple[Vox, Vox] | None, tuple[Tensor, Tensor] | None]) -> Whole | None:
        box, travelled = whole
        if box is None:
            return None
        i, j, k = (s - first for s, first in zip(start_vox, box[0], strict=True))
        if travelled is not None:
            image, label = travelled
            return Whole(image[None].to(torch.float32), label[None], (i, j, k))
        place = torch.tensor([[self.resident[case], *box[0]]]).to(self.volumes.image.device, non_blocking=True)
        cut = crop(self.volumes, place, box[1], self.backend)
        return Whole(cut.image[:, None], cut.label[:, None], (i, j, k))


def check_budget(resident_gib: float | None) -> float | None:
    """Refuse a budget that is none."""
    if resident_gib is not None and not 0 <= resident_gib < math.inf:
        raise ValueError(f"resident_gib must be a number of GiB, 0 or more, got {resident_gib}; null takes half of what is free")
    return resident_gib


def _budget_bytes(device: torch.device, resident_gib: float | None) -> float:
    if resident_gib is not None:
        return resident_gib * 2**30
    if device.type != "cuda":
        return 0.0
    free, _ = torch.cuda.mem_get_info(device)
    return FREE_SHARE * (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _within(cases: Sequence[Case], budget_bytes: float) -> list[int]:
    """Numbers of the cases that fit, taken in order; one that is too large makes way for those after it."""
    chosen = []
    for number, case in enumerate(cases):
        size = BYTES_A_VOXEL * _padded(math.prod(case.shape))
        if size <= budget_bytes:
            chosen.append(number)
            budget_bytes -= size
    return chosen


def _packed(manifest: Manifest, cases: Sequence[Case], device: torch.device) -> Packed:
    """Read scans into two buffers, i the slowest; files have it the fastest, which the device turns, faster than a host would."""
    voxels = [_padded(math.prod(case.shape)) for case in cases]
    ends = [sum(voxels[:n]) for n in range(len(cases) + 1)]
    image, label = (torch.zeros(ends[-1], dtype=dtype, device=device) for dtype in (torch.int16, torch.uint8))
    for case, start in zip(cases, ends, strict=False):
        for packed, mapped in ((image, map_image(manifest, case)), (label, map_label(manifest, case))):
            volume = torch.from_numpy(mapped.T.copy()).to(device)
            packed[start : start + volume.numel()].view(case.shape).copy_(volume.permute(2, 1, 0))
    offset = torch.tensor(ends[:-1], dtype=torch.int64, device=device)
    return Packed(image, label, offset, torch.tensor([case.shape for case in cases], dtype=torch.int32, device=device).view(-1, 3))


def _padded(voxels: int) -> int:
    return -(-voxels // WORD_VOX) * WORD_VOX


def _gib(cases: Sequence[Case]) -> float:
    return sum(BYTES_A_VOXEL * math.prod(case.shape) for case in cases) / 2**30

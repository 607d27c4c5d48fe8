"""Which patch a uid is, and how it is read from disk: two questions, so that the first has one answer however the second is settled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gpu_synth.kernels.placement import erode
from gpu_synth.kernels.rng import Purpose, to_integer, to_uniform, words
from gpu_synth.manifest import Case, Manifest, map_label, read_patch
from gpu_synth.plan_base import Scope

CHUNK = 256  # uids whose words are drawn at once: as quick as for one
WHOLE_MARGIN_MM = 16.0  # around the organ, for plans of the whole of it: as far as our mass effect and halos of most lesions reach

Sample = dict[str, Any]
Vox = tuple[int, int, int]


@dataclass(frozen=True)
class PatchPolicy:
    """What patches are centred on: shares of them, relative to their sum.

    Where a patch would reach over the scan's border it is moved inside, and lies over the middle where the scan is the smaller one.

    Attributes:
        organ: On a voxel of the organ, each as likely as any other.
        border: On a voxel of the organ's surface, likewise.
        background: On nothing: anywhere in the scan, so that a network learns what is no organ.

    Source: Hu et al. 2022; facts on training: positive to negative 1:1. That a fifth of the positive ones lie on the surface is our choice,
        as lesions there are the harder ones.
    """

    organ: float = 0.4
    border: float = 0.1
    background: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{field.name} of a patch policy must be a finite share of 0 or more, got {value!r}")
        if not sum(self.shares) > 0:
            raise ValueError("a patch policy must have a share above 0, got none; organ: 1 takes all patches from the organ")

    @property
    def shares(self) -> tuple[float, float, float]:
        """In the order of the attributes."""
        return self.organ, self.border, self.background


class Place(NamedTuple):
    """Where a patch is.

    Attributes:
        case: Number of its case among those that patches are taken of.
        start_vox: Its first voxel; the patch may reach over the scan's border, where that is the smaller one.
        aimed: Whether it is centred on organ, and so was asked to hold a tumour.
    """

    case: int
    start_vox: Vox
    aimed: bool


class Counts(NamedTuple):
    """Voxels of an organ, and of its surface, in each axial slab of its box and all before it."""

    organ: NDArray[np.int64]
    border: NDArray[np.int64]


class PatchLocator:
    """Where the patch of a uid is: a function of seed and uid, reckoned on the host.

    A voxel is chosen by its rank among the organ's (or its surface's) voxels: their number in every axial slab is counted once a case and
    process (some 65 ms where the organ has 1.5 million voxels; 5 kB are kept), and one slab is looked at for each patch (0.1 to 0.3 ms).

    Args:
        manifest: Prepared data.
        cases: The cases to take patches of, each as likely as the others.
        patch_vox: Patch shape.
        seed: The run's seed.
        policy: What patches are centred on.
    """

    def __init__(self, manifest: Manifest, cases: Sequence[Case], patch_vox: Sequence[int], seed: int, policy: PatchPolicy) -> None:
        self.manifest, self.cases, self.patch_vox, self.seed, self.policy = manifest, tuple(cases), tuple(patch_vox), seed, policy
        self._ends: dict[int, Counts] = {}

    def locate(self, uid: int) -> Place:
        """Find the patch of a uid."""
        word = _words(self.seed, uid // CHUNK)[uid % CHUNK]
        number, rank = int(to_integer(word[0], 0, len(self.cases) - 1)), (int(word[1]) << 32) + int(word[2])
        organ, border, _ = (end / sum(self.policy.shares) for end in accumulate(self.policy.shares))
        aim = float(to_uniform(word[3]))
        centre = self.centre_vox(number, aim >= organ, rank) if aim < border else None
        ends = [(min(0, n - size), max(0, n - size)) for n, size in zip(self.cases[number].shape, self.patch_vox, strict=True)]
        if centre is None:
            i, j, k = (int(to_integer(w, *limits)) for w, limits in zip(word[4:], ends, strict=True))
            return Place(number, (i, j, k), False)
        i, j, k = (min(max(c - size // 2, low), high) for c, size, (low, high) in zip(centre, self.patch_vox, ends, strict=True))
        return Place(number, (i, j, k), True)

    def centre_vox(self, number: int, border: bool, rank: int) -> Vox | None:
        """Choose a voxel of a case's organ, a tumour in it included, or of its surface.

        Args:
            number: Which case.
            border: Whether of its surface: voxels with one beside them, corners included, that is no organ. What lies beyond the scan
                counts as organ, so that a cut is no surface.
            rank: Which voxel, a share of all of them in 2⁻⁶⁴.

        Returns:
            The voxel; None where there is no organ. Of an organ without surface, as one that fills the scan, any voxel.
        """
        case = self.cases[number]
        if number not in self._ends:
            (_, _, first), (_, _, end) = case.organ_bbox_vox
            self._ends[number] = Counts(*(mask.sum((1, 2), dtype=np.int64).cumsum() for mask in _masks(self.manifest, case, first, end)))
        counts = self._ends[number]
        on_border = border and counts.border[-1:].any()
        ends = counts.border if on_border else counts.organ
        if not ends[-1:].any():
            return None
        nth, (i, j, k) = rank * int(ends[-1]) >> 64, case.organ_bbox_vox[0]
        slab = int(np.searchsorted(ends, nth, side="right"))
        mask = _masks(self.manifest, case, k + slab, k + slab + 1)[int(on_border)][0]
        at = int(np.flatnonzero(mask)[nth - (int(ends[slab - 1]) if slab else 0)])
        return i + at % mask.shape[1], j + at // mask.shape[1], k + slab


class PatchDataset(Dataset[Sample]):
    """Patches of healthy scans by uid; of scans that are resident on the device only where they are.

    Only a patch's own pages of the memory-mapped files are read. MONAI's PersistentDataset would read the scan for each patch, its
    CacheDataset hold all scans in memory, and its crop look through a whole label for the organ: some hundred times the work.

    Args:
        locator: Which patch a uid is.
        resident: Number in the bank of each case that is resident, by the case's number among the locator's.
        scope: "volume": hand over where the whole organ's box is too, and its voxels where they are not resident.
    """

    def __init__(self, locator: PatchLocator, resident: dict[int, int] | None = None, scope: Scope = "patch") -> None:
        self.locator, self.resident, self.scope = locator, resident or {}, scope

    def __getitem__(self, uid: int) -> Sample:
        """Read the patch of a uid.

        Returns:
            `uid`, `spacing_mm`, `case`, `start_vox`, `aimed`; `place`, its place in the bank, where the case is resident, else `image`
            int16 HU and `label` uint8 `(1, i, j, k)`. With scope "volume" also `whole`: `whole_box`, and its voxels
            where they are not resident.
        """
        locator, place = self.locator, self.locator.locate(uid)
        case = locator.cases[place.case]
        sample: Sample = {"uid": torch.tensor(uid), "spacing_mm": case.spacing_mm, "aimed": torch.tensor(place.aimed)}
        sample |= {"case": place.case, "start_vox": place.start_vox}
        number = self.resident.get(place.case)
        if number is None:
            sample["image"], sample["label"] = read_patch(locator.manifest, case, place.start_vox, locator.patch_vox)
        else:
            sample["place"] = torch.tensor([number, *place.start_vox])
        if self.scope == "volume":
            box = whole_box(case, place.start_vox, locator.patch_vox)
            sample["whole"] = box, None if box is None or number is not None else read_patch(locator.manifest, case, *box)
        return sample


class ResumableLoader(DataLoader[Sample]):
    """A loader that Lightning knows to be resumable: its sampler goes on where the data module's own state says."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `SynthesisDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


def whole_box(case: Case, start_vox: Vox, patch_vox: Sequence[int]) -> tuple[Vox, Vox] | None:
    """First voxel and size of the box that a plan for the whole organ is made in; None where the patch holds nothing of it.

    The organ with a margin rather than the scan: whatever a plan asks is of the organ, and a scan has some ten times the voxels.
    """
    margin = [round(WHOLE_MARGIN_MM / spacing) for spacing in case.spacing_mm]
    first = [max(0, a - m) for a, m in zip(case.organ_bbox_vox[0], margin, strict=True)]
    end = [min(n, b + m) for b, m, n in zip(case.organ_bbox_vox[1], margin, case.shape, strict=True)]
    if any(s >= b or s + n <= a for s, n, a, b in zip(start_vox, patch_vox, first, end, strict=True)):
        return None
    return (first[0], first[1], first[2]), (end[0] - first[0], end[1] - first[1], end[2] - first[2])


def _masks(manifest: Manifest, case: Case, begin: int, end: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Organ and its surface `(k, j, i)` in some axial slabs of the organ's box; a voxel around them is looked at."""
    (i0, j0, _), (i1, j1, _) = case.organ_bbox_vox
    wanted = ((begin, end), (j0, j1), (i0, i1))
    around = [(max(0, a - 1), min(n, b + 1)) for (a, b), n in zip(wanted, case.shape[::-1], strict=True)]
    organ = map_label(manifest, case).T[tuple(slice(a, b) for a, b in around)] > 0
    inner = erode(torch.from_numpy(organ)[None], (1, 1, 1))[0].numpy()
    inside = tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(wanted, around, strict=True))
    return organ[inside], (organ & ~inner)[inside]


@lru_cache(maxsize=8)
def _words(seed: int, chunk: int) -> Tensor:
    """Words of the uids of a chunk `(uids, 7)`: case, rank (two), aim, start (three)."""
    return words(seed, torch.arange(chunk * CHUNK, (chunk + 1) * CHUNK), Purpose.PATCH, 1, 7)[:, 0]

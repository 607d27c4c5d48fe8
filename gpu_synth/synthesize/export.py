"""One scan's files as the engine sees them, and what the engine made of it written back into copies of the same files.

**Turned, not resampled.** The engine works on the CT's own voxels, turned to RAS by flips and transposition: views of the file's own array,
so that what is written through them lies where the file has it. So a preset's axial slices are the patient's, whatever the file's axes are,
and the same patient in another orientation gets the same tumours.

**The organ's box.** A scan is planned in the box of its organ and 16 voxels around it, which is all that the organ's statistics and a
cirrhotic surface look at. It is rendered in a box that holds in addition what lesions reach, and 8 voxels more: a crop of a render is a
render of the crop but within 8 voxels of its border, so it is what rendering the whole scan would give, in less memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from gpu_synth.conform import to_classes
from gpu_synth.grids import placed_as, same_grid
from gpu_synth.kernels._columns import Trait
from gpu_synth.kernels.lesion import reach_mm
from gpu_synth.kernels.warp import REACH
from gpu_synth.lesion_plan import LesionPlan
from gpu_synth.plan_base import Plan
from gpu_synth.render import Render
from gpu_synth.sources import Source
from gpu_synth.synthesize.stored import Stored, header_for, read_stored, write_stored
from gpu_synth.synthesizer import TumorSynthesizer
from gpu_synth.volumes import VolumeError, to_ras

ORGAN, TUMOR, OTHER, REAL_TUMOR = 1, 2, 3, 4  # what the engine is shown; the last two are neither moved nor overwritten
BORDER_VOX = 8  # of a crop, within which its render is not the whole's
MARGIN_VOX = 2 * BORDER_VOX
LEAST_RANGE_HU = 300
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class Labels(NamedTuple):
    """What the values of a mask are.

    Attributes:
        organ: Values that are organ.
        real_tumor: Values that are tumour already.
        synthetic: Value that synthetic tumours get.
    """

    organ: tuple[int, ...] = (1,)
    real_tumor: tuple[int, ...] = ()
    synthetic: int = 2


@dataclass(frozen=True)
class Scan:
    """A CT and its mask.

    Attributes:
        image: The CT's file.
        mask: The mask's file.
        label: (i, j, k) uint8, RAS: 0, `ORGAN`, `OTHER`, `REAL_TUMOR`.
        box: First voxel and one past the last along each axis, RAS: the organ and 16 voxels around it.
        organ_ml: The organ's volume.
        notes: What looks odd.
    """

    image: Stored
    mask: Stored
    label: NDArray[np.uint8]
    box: Box
    organ_ml: float
    notes: tuple[str, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres, towards right, anterior, superior."""
        i, j, k = (round(mm, 6) for mm in to_ras(self.image.volume).spacing_mm)
        return i, j, k

    def tensors(self, box: Box) -> tuple[Tensor, Tensor]:
        """HU and labels of a box, `(1, 1, i, j, k)`."""
        part = _slices(box)
        image_hu = self.image.scaled(_turned(self.image, self.image.numbers)[part])
        label = np.ascontiguousarray(self.label[part])
        return torch.from_numpy(np.ascontiguousarray(image_hu))[None, None], torch.from_numpy(label)[None, None]

    def in_file(self, centre_vox: Sequence[float]) -> list[float]:
        """A point of the box as a voxel of the CT's file, counted from 0."""
        whole = [at + start for at, (start, _) in zip(centre_vox, self.box, strict=True)]
        return [
            float(whole[int(axis)] if flip > 0 else n - 1 - whole[int(axis)])
            for (axis, flip), n in zip(nib.io_orientation(self.image.affine), self.image.numbers.shape, strict=True)
        ]

    def in_box(self, file_vox: Sequence[float]) -> list[float]:
        """A voxel of the CT's file as a point of the box."""
        out = [0.0, 0.0, 0.0]
        for at, n, (axis, flip) in zip(file_vox, self.image.numbers.shape, nib.io_orientation(self.image.affine), strict=True):
            out[int(axis)] = (at if flip > 0 else n - 1 - at) - self.box[int(axis)][0]
        return out


def read_scan(source: Source, labels: Labels) -> Scan:
    """Read a case's files.

    Raises:
        VolumeError: One of them cannot be used, or they do not belong together.
    """
    if source.label is None:
        raise VolumeError(f"{source.image}: has no label in the list; the organ's mask must be there")
    for path in (source.image, source.label):
        if path.exists() and not path.name.endswith((".nii", ".nii.gz")):
            raise VolumeError(f"{path}: must be NIfTI, whose grid and header are kept; gpu-synth prepare reads it: then give --data_dir")
    image, mask = read_stored(source.image), read_stored(source.label)
    _check_hu(image)
    volume, notes = placed_as(mask.volume, image.numbers.shape, image.affine, image.placed)
    mask, whole = replace(mask, affine=volume.affine), to_ras(image.volume)
    if not same_grid(to_ras(mask.volume), whole):
        raise VolumeError(
            f"{mask.path}: must lie on its image's grid, got {mask.numbers.shape} against {image.numbers.shape}, or another place; "
            "gpu-synth prepare brings both onto one: then give --data_dir"
        )
    label = _label(mask, labels)
    at = ndimage.find_objects((label == ORGAN).view(np.uint8))[0]
    box = _grown(((s.start, s.stop) for s in at), MARGIN_VOX, label.shape)
    if abs(image.slope) > 1:
        notes.append(f"the file holds HU in steps of {abs(image.slope):g}: tumours are rounded to these")
    if not image.placed:
        notes.append("the image's header gives no orientation (sform and qform codes are 0): left, anterior, superior is assumed")
    return Scan(image, mask, label, box, round(float(np.count_nonzero(label == ORGAN)) * whole.voxel_ml, 3), tuple(notes))


def _check_hu(image: Stored) -> None:
    ends = [(np.nanmin(plane), np.nanmax(plane)) for plane in np.moveaxis(image.numbers, 2, 0) if np.isfinite(plane).any()]
    if not ends:
        raise VolumeError(f"{image.path}: must be a CT in HU, got no finite voxel")
    least, most = sorted(image.slope * float(end) + image.inter for end in (min(e[0] for e in ends), max(e[1] for e in ends)))
    if most - least < LEAST_RANGE_HU:
        raise VolumeError(
            f"{image.path}: must be a CT in HU, got values from {least:g} to {most:g}; convert it from its normalised or windowed form"
        )


def _label(mask: Stored, labels: Labels) -> NDArray[np.uint8]:
    """What the engine is shown of a mask; refuse one without organ, or whose tumours would not be told from what it holds."""
    values = mask.numbers if mask.slope == 1 and mask.inter == 0 else mask.scaled(mask.numbers)
    classes, held = to_classes(mask.path, values, labels.organ, labels.real_tumor)
    if not set(held) & set(labels.organ):
        names, other = ", ".join(map(str, labels.organ)), [value for value in held if value]
        mend = f"name the organ's value: --organ_labels {other[-1]}" if other else "it is empty: is it the right file?"
        raise VolumeError(f"{mask.path}: must hold organ label {names}, got only {', '.join(map(str, held))}; {mend}")
    if labels.synthetic in held and labels.synthetic not in labels.real_tumor:
        raise VolumeError(
            f"{mask.path}: must not use the tumours' label {labels.synthetic} for anything, got voxels of it; choose a free --tumor_label "
            f"such as {max(held) + 1}, or where they are tumours that may share it, --real_tumor_labels {labels.synthetic}"
        )
    mask.number_of(labels.synthetic, "tumour label")
    engine: NDArray[np.uint8] = np.where(classes == 2, np.uint8(REAL_TUMOR), classes)
    engine[(classes == 0) & (np.abs(values) > 0.5)] = OTHER
    return _turned(mask, engine)


def _turned(file: Stored, data: NDArray[Any]) -> NDArray[Any]:
    """A file's array as RAS: a view of it."""
    view: NDArray[Any] = nib.apply_orientation(data, nib.io_orientation(file.affine))
    return view


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _grown(ends: Iterable[tuple[float, float]], by_vox: int, shape: Sequence[int]) -> Box:
    """A box with voxels around it, as far as there are some."""
    i, j, k = ((max(0, int(start) - by_vox), min(n, int(stop) + by_vox)) for (start, stop), n in zip(ends, shape, strict=True))
    return i, j, k


def reached(plan: Plan, scan: Scan) -> Box:
    """The box that has to be rendered: the organ's, what lesions reach, and 8 voxels more. Reads the plan.

    Args:
        plan: Of one sample, for the scan's box.
        scan: The scan.
    """
    if not isinstance(plan, LesionPlan) or not plan.active.any():
        return scan.box  # the published method changes nothing outside the organ
    lesion, spacing = plan.lesion[plan.active].cpu(), torch.tensor(plan.spacing_mm[0])
    pushed_mm = torch.where(lesion[:, Trait.PUSH] > 0, REACH * lesion[:, Trait.PUSH_MM], 0.0)
    far_vox = torch.maximum(reach_mm(lesion), pushed_mm)[:, None] / spacing + 1
    centre = plan.centre_vox[plan.active].cpu() + torch.tensor([start for start, _ in scan.box])
    low, high = (centre - far_vox).amin(0).floor().tolist(), (centre + far_vox).amax(0).ceil().tolist()
    lesions = _grown(zip(low, high, strict=True), BORDER_VOX + 1, scan.label.shape)
    i, j, k = ((min(a, start), max(b, stop)) for (a, b), (start, stop) in zip(lesions, scan.box, strict=True))
    return i, j, k


def render_scan(synth: TumorSynthesizer, scan: Scan, plan: Plan, device: torch.device) -> tuple[Render, Box]:
    """Render a plan of a scan's box where it changes anything."""
    box = reached(plan, scan)
    origin = [start - first for (start, _), (first, _) in zip(box, scan.box, strict=True)]
    image, label = (tensor.to(device) for tensor in scan.tensors(box))
    return synth.render(image, label, plan.to(device), origin), box


def records_in_file(out: Render, scan: Scan, box: Box) -> list[dict[str, Any]]:
    """What came out, see `Render.records`, with `centre_vox` in the CT's file and `centre_mm` in the patient, RAS.

    Other structures of the mask count as no organ, so that `surface_mm` is the distance to them too.
    """
    alone = replace(out, label=torch.where(out.label == OTHER, 0, out.label))
    records = alone.records()
    for record in records:
        in_box = [at + start - first for at, (start, _), (first, _) in zip(record["centre_vox"], box, scan.box, strict=True)]
        record["centre_vox"] = [round(at, 3) for at in scan.in_file(in_box)]
        record["centre_mm"] = [round(float(mm), 3) for mm in nib.affines.apply_affine(scan.image.affine, record["centre_vox"])]
    return records


def write_scan(scan: Scan, out: Render, box: Box, labels: Labels, paths: Sequence[Any]) -> int:
    """Write image, label and instances, each as a whole.

    Args:
        scan: What was read.
        out: What was rendered.
        box: Where.
        labels: What the values of the mask are.
        paths: Of image, label and instances.

    Returns:
        How many voxels of the image changed.
    """
    part = _slices(box)
    before, after = out.healthy[0, 0].cpu().numpy(), out.image[0, 0].cpu().numpy()
    numbers = scan.image.numbers.copy(order="F")
    view = _turned(scan.image, numbers)[part]
    view[...] = scan.image.changed(view, before, after)
    changed = int(np.count_nonzero(view != _turned(scan.image, scan.image.numbers)[part]) - _unequal_to_itself(view))
    write_stored(paths[0], scan.image.header, numbers)
    del numbers, view
    write_stored(paths[1], scan.mask.header, _new_mask(scan, out.label[0, 0].cpu().numpy(), part, labels))
    number = np.zeros(scan.image.numbers.shape, np.uint8, order="F")
    _turned(scan.image, number)[part] = out.instances[0, 0].cpu().numpy()
    write_stored(paths[2], header_for(scan.image.header, np.uint8), number)
    return changed


def _unequal_to_itself(numbers: NDArray[Any]) -> int:
    """How many are NaN."""
    return int(np.count_nonzero(numbers != numbers))


def _new_mask(scan: Scan, label: NDArray[np.uint8], part: tuple[slice, ...], labels: Labels) -> NDArray[Any]:
    """The mask's numbers with tumours in it, and the organ as mass effect and cirrhosis have shaped it."""
    mask, numbers = scan.mask, scan.mask.numbers.copy(order="F")
    view, before = _turned(mask, numbers)[part], scan.label[part]
    gained = (label == ORGAN) & (before == 0)
    if len(labels.organ) == 1:
        view[gained] = mask.number_of(labels.organ[0], "organ label")
    elif gained.any():  # what bulges takes the value of the organ next to it: there may be several, such as segments
        nearest = ndimage.distance_transform_edt(before != ORGAN, return_distances=False, return_indices=True)
        view[gained] = view[tuple(index[gained] for index in nearest)]
    view[(label == 0) & (before == ORGAN)] = mask.number_of(0, "background")
    view[label == TUMOR] = mask.number_of(labels.synthetic, "tumour label")
    return numbers

"""What can be known of a batch without reading the device, refused at once where it is wrong."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_synth.kernels._launch import BACKENDS
from gpu_synth.plan_base import SCOPES, Plan, Spacing


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of the choices, and name the nearest."""
    if value not in choices:
        close = get_close_matches(str(value), choices, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def check_graph(graph: Any, backend: str) -> None:
    """Refuse a graph of what is no kernel."""
    if not isinstance(graph, bool):
        raise ValueError(f"graph must be True or False, got {graph!r}")
    if graph and backend == "torch":
        raise ValueError("graph must be False for backend 'torch', got True; graphs are of kernels: backend='cupy'")


def check_prob(name: str, value: Any) -> None:
    """Refuse what is no probability."""
    if not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def check_at_least(least: int, **counts: int) -> None:
    """Refuse counts under the least that there can be."""
    for name, value in counts.items():
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")


def check_range(name: str, values: Sequence[float]) -> None:
    """Refuse a range whose ends are swapped, or are one."""
    if len(values) != 2 or not values[0] < values[1]:
        raise ValueError(f"{name} must be (low, high) with low < high, got {tuple(values)}; swap them")


def check_seed(seed: Any) -> int:
    """Refuse what is no 64-bit integer."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**63:
        raise ValueError(f"seed must be an integer of 64 bits, got {seed!r}")
    return int(seed)


def check_labels(organ_label: Any, tumor_label: Any) -> None:
    """Refuse numbers of organ and tumour that no label could hold apart."""
    for name, value in (("organ_label", organ_label), ("tumor_label", tumor_label)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be an integer, got {value!r}")
    if organ_label == tumor_label:
        raise ValueError(f"tumor_label must differ from organ_label, got {tumor_label} for both; 1 and 2 are usual")


def check_options(prob: Any, backend: Any, scope: Any, organ_label: Any, tumor_label: Any, graph: Any) -> None:
    """Refuse what no synthesizer can be made of."""
    check_choice("backend", backend, BACKENDS)
    check_choice("scope", scope, SCOPES)
    check_graph(graph, backend)
    check_prob("prob", prob)
    check_labels(organ_label, tumor_label)


def check_images(image: Any, label: Any, organ_label: int, tumor_label: int) -> None:
    """Refuse images and labels of a wrong kind, shape, type or device.

    Raises:
        TypeError: One of them is no tensor, or has a wrong dtype.
        ValueError: They are not both (b, 1, i, j, k), or differ in shape or device.
    """
    for name, value in (("image", image), ("label", label)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; torch.as_tensor() makes one of a NumPy array")
        if value.ndim != 5 or value.shape[1] != 1 or 0 in value.shape:
            mend = {3: "; add batch and channel: x[None, None]", 4: "; add the batch axis: x[None]"}.get(value.ndim, "")
            raise ValueError(f"{name} must be (b, 1, i, j, k) with no empty axis, got {tuple(value.shape)}{mend}")
    if not image.is_floating_point():
        raise TypeError(f"image must be floating HU, got {image.dtype}; convert it: image.float()")
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise TypeError(f"label must be an integer tensor, got {label.dtype}; convert it: label.to(torch.uint8)")
    for name, value in (("organ_label", organ_label), ("tumor_label", tumor_label)):  # torch would compare what is left of it modulo 256
        if not torch.iinfo(label.dtype).min <= value <= torch.iinfo(label.dtype).max:
            raise ValueError(f"{name} must be a value that label can hold, got {value} for {label.dtype}; convert it: label.int()")
    if image.shape != label.shape:
        raise ValueError(f"label must have the image's shape {tuple(image.shape)}, got {tuple(label.shape)}")
    if image.device != label.device:
        raise ValueError(f"label must be on the image's device {image.device}, got {label.device}; move it: label.to(image.device)")


def check_spacing(spacing_mm: Any, batch: int) -> tuple[Spacing, ...]:
    """Read three numbers, or three for each sample, as one triple a sample.

    Raises:
        TypeError: They are on an accelerator, where reading them would wait for it.
        ValueError: They are missing, of another number, not finite or not above 0.
    """
    if spacing_mm is None:
        raise ValueError("spacing_mm must be given, got None; three millimetres in the tensor's axis order, such as (1.0, 1.0, 1.0)")
    if isinstance(spacing_mm, Tensor):
        if spacing_mm.device.type != "cpu":
            raise TypeError(
                f"spacing_mm must be host numbers, got a tensor on {spacing_mm.device}; keep it on the CPU when the batch moves"
            )
        spacing_mm = spacing_mm.tolist()
    if isinstance(spacing_mm, (list, tuple)) and any(isinstance(row, Tensor) and row.ndim for row in spacing_mm):
        raise ValueError(  # three tensors of three would be read the wrong way round without a word
            f"spacing_mm must hold numbers, got a {type(spacing_mm).__name__} of tensors; where a DataLoader collated triples, one tensor "
            "an axis, join them: torch.stack(spacing_mm, 1)"
        )
    try:
        rows = list(spacing_mm)
        triples = [[_as_length(x) for x in row] for row in (rows if isinstance(rows[0], Sequence | np.ndarray) else [rows])]
    except (TypeError, ValueError, IndexError):
        triples = []
    if len(triples) not in (1, batch) or any(len(triple) != 3 for triple in triples):
        raise ValueError(f"spacing_mm must be three numbers, or three for each of {batch} samples, got {spacing_mm}")
    if not all(0.0 < x < math.inf for triple in triples for x in triple):
        raise ValueError(f"spacing_mm must be finite and above 0 mm, got {spacing_mm}; a NIfTI header has it: header.get_zooms()")
    return tuple((i, j, k) for i, j, k in (triples if len(triples) == batch else triples * batch))


def _as_length(value: Any) -> float:
    """Read a number; None, as a batch may hold for what is not known, is none that passes."""
    if isinstance(value, str):
        raise TypeError("text")
    return math.nan if value is None else float(value)


def check_uid(uid: Any, image: Tensor) -> Tensor:
    """Refuse uids that are not one integer a sample; bring them to the image's device.

    Raises:
        TypeError: They are no integer tensor.
        ValueError: They are of another number.
    """
    if not isinstance(uid, Tensor) or uid.is_floating_point() or uid.dtype == torch.bool:
        got = uid.dtype if isinstance(uid, Tensor) else type(uid).__name__
        raise TypeError(f"uid must be an int64 tensor of shape ({len(image)},), got {got}; torch.tensor([...]) makes one")
    if uid.shape != (len(image),):
        raise ValueError(f"uid must have shape ({len(image)},), one a sample, got {tuple(uid.shape)}")
    return uid.to(image.device, torch.int64, non_blocking=image.device.type != "cpu").contiguous()


def check_plan(plan: Any, image: Tensor, origin_vox: Any) -> tuple[int, int, int]:
    """Refuse a plan that does not belong to the images; return where in its whole they begin.

    Raises:
        TypeError: It is no plan.
        ValueError: Another batch size, device or shape; an origin for a plan that belongs to a patch, none for one of a volume.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be what TumorSynthesizer.plan made, got {type(plan).__name__}")
    shape = tuple(image.shape[2:])
    if len(plan) != len(image):
        raise ValueError(f"plan must hold {len(image)} samples, as image does, got {len(plan)}; take some with plan[...]")
    if plan.device != image.device:
        raise ValueError(f"plan must be on the image's device {image.device}, got {plan.device}; move it: plan.to(image.device)")
    if origin_vox is None:
        if shape != plan.whole_vox:
            mend = "name the crop's place with origin_vox" if plan.scope == "volume" else "a plan of a crop needs scope='volume'"
            raise ValueError(f"image must have the shape {plan.whole_vox} that the plan was made for, got {shape}; {mend}")
        return 0, 0, 0
    if plan.scope == "patch":
        raise ValueError(f"origin_vox must be None for a plan of scope 'patch', got {origin_vox}; plan the whole with scope='volume'")
    try:
        i, j, k = (int(value) for value in origin_vox)
        whole = not isinstance(origin_vox, Tensor) and (i, j, k) == tuple(origin_vox)
    except (TypeError, ValueError, OverflowError):  # no numbers, not three, NaN, infinite
        whole = False
    if not whole:
        raise ValueError(f"origin_vox must be three host integers, got {origin_vox}")
    return i, j, k

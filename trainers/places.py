"""Where other people's batches hold image, label and spacing: dicts, tuples, parts of a CombinedLoader, MONAI's MetaTensors."""

import os
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed import get_rank, is_available, is_initialized

Key = str | int


def find(batch: Any, key: Key) -> Any:
    """Look up what a batch holds in a place; None where there is no such place."""
    if isinstance(batch, MutableMapping):
        return batch.get(key)
    if isinstance(batch, (list, tuple)) and isinstance(key, int) and -len(batch) <= key < len(batch):
        return batch[key]
    return None


def parts(batch: Any, *keys: Key) -> list[Any]:
    """Return the batch if it holds a tensor under each key; else those of its parts, at any depth, that do."""
    if all(isinstance(find(batch, key), Tensor) for key in keys):
        return [batch]
    inner = batch.values() if isinstance(batch, MutableMapping) else batch if isinstance(batch, (list, tuple)) else ()
    return [part for value in inner for part in parts(value, *keys)]


def describe(batch: Any) -> str:
    """Tell what a batch holds, for an error."""
    if isinstance(batch, MutableMapping):
        inner = [f"in {key!r} {describe(value)}" for key, value in batch.items() if isinstance(value, (MutableMapping, list, tuple))]
        return f"keys {list(batch)}" + (f" ({'; '.join(inner)})" if any("keys" in told for told in inner) else "")
    return f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (list, tuple)) else "")


def host_spacing(batch: Any, image_key: Key, spacing_key: Key) -> Any:
    """Read the spacing that a batch holds, or that its image does if it is a MetaTensor, as host numbers.

    Returns:
        Three numbers, or three a sample; None where there are none, or where they are on a device already.
    """
    if (spacing_mm := on_host(find(batch, spacing_key))) is not None:
        return spacing_mm
    return affine_spacing(find(batch, image_key))


def affine_spacing(image: Any) -> Any:
    """Spacing of a MetaTensor, `(c, i, j, k)` or a batch, from its affine matrices; None where it has none on the host."""
    affine = getattr(image, "affine", None)
    if not isinstance(affine, Tensor) or affine.device.type != "cpu" or affine.shape[-2:] != (4, 4):
        return None
    return affine[..., :3, :3].square().sum(-2).sqrt().tolist()


def on_host(spacing_mm: Any) -> Any:
    """Spacing as host numbers; None where it is on a device already."""
    tensors = [spacing_mm] if isinstance(spacing_mm, Tensor) else spacing_mm if isinstance(spacing_mm, (list, tuple)) else []
    if any(isinstance(x, Tensor) and x.device.type != "cpu" for x in tensors):
        return None
    if len(tensors) == 3 and all(isinstance(x, Tensor) and x.ndim == 1 for x in tensors):
        spacing_mm = torch.stack(list(tensors), 1)
    return spacing_mm.tolist() if isinstance(spacing_mm, Tensor) else spacing_mm


def process_rank() -> int:
    """Which of a training's processes this is, or the worker process of which: launchers seed all of them alike."""
    if is_available() and is_initialized():
        return int(get_rank())
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))  # a spawned worker knows no more

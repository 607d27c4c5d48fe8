"""Kernels against their torch twins: how much they may differ, and why."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def on(device: torch.device, value: Any) -> Any:
    """Tensors of a (named) tuple, or one, on a device; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        parts = [on(device, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def assert_equal(kernel: Tensor, twin: Tensor) -> None:
    """To the last bit: integers, and floats that are made of additions and multiplications in a fixed order."""
    assert kernel.shape == twin.shape
    assert kernel.dtype == twin.dtype
    differing = (kernel.cpu() != twin.cpu()).sum().item()
    assert differing == 0, f"{differing} of {twin.numel()} differ"


def assert_near(kernel: Tensor, twin: Tensor, tolerance: float) -> None:
    """Within an absolute tolerance; shares of one that the kernel stores in 16 bits are brought back."""
    kernel = as_share(kernel).double().cpu()
    assert kernel.shape == twin.shape
    worst = (kernel - twin.double().cpu()).abs().max().item()
    assert worst <= tolerance, f"{worst:g} is more than {tolerance:g}"


def as_share(values: Tensor) -> Tensor:
    """65535ths as floats."""
    return values.to(torch.int32).double() / 65535 if values.dtype == torch.uint16 else values


def assert_same_labels(kernel: Tensor, twin: Tensor, tumor_label: int = 2) -> None:
    """At most 1 in 10 000 tumour voxels (2 at the least): a displacement within rounding of half a voxel may go either way."""
    kernel, twin = kernel.cpu(), twin.cpu()
    assert kernel.dtype == twin.dtype
    allowed = max(2.0, 1e-4 * (twin.to(torch.int64) == tumor_label).sum().item())
    differing = (kernel.to(torch.int64) != twin.to(torch.int64)).sum().item()
    assert differing <= allowed, f"{differing} voxels differ"


def assert_same_images(kernel: Tensor, twin: Tensor, within_hu: float = 0.05) -> None:
    """0.05 HU in 99.99 % of voxels and 3 HU at most: shares are stored in 16 bits, and a voxel of a lesion may go either way."""
    kernel, twin = kernel.cpu(), twin.cpu()
    assert kernel.dtype == twin.dtype
    finite = twin.isfinite()
    assert torch.equal(kernel[~finite].isnan(), twin[~finite].isnan())
    assert torch.equal(kernel.isinf(), twin.isinf())
    error = (kernel[finite].double() - twin[finite].double()).abs()
    assert (error > within_hu).double().mean().item() <= 1e-4
    assert error.max().item() <= 3.0


def grid_ids(shapes: Sequence[Sequence[int]]) -> list[str]:
    """Readable names of shapes."""
    return ["×".join(map(str, shape)) for shape in shapes]

"""Full precision, whatever the training loop around computes in: a sample is the same under autocast, TF32 or neither."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device, backend: str) -> Iterator[None]:
    """Switch autocast and reduced-precision matrix products off, and afterwards back to what they were; kernels have neither."""
    if backend == "cupy":
        yield
        return
    products: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined] # made at run time
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext():
            yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision

"""Small made-up batches for tests of the engine: noisy soft tissue, and an organ that one border cuts."""

import torch
from torch import Tensor

TINY = (1.0, 0.0, 0.0, 0.0, 0.0)
MIX = (0.0, 0.0, 0.0, 0.0, 1.0)
ONE_MM = (1.0, 1.0, 1.0)
SHAPE = (41, 36, 27)


def organ(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """An ellipsoid whose centre lies towards the first axis' start, so that this border cuts it."""
    i, j, k = (torch.linspace(-1.0, 1.0, n) for n in shape)
    return ((i + 0.4) / 0.9)[:, None, None] ** 2 + (j / 0.85)[:, None] ** 2 + (k / 0.8) ** 2 < 1


def scans(b: int = 2, shape: tuple[int, int, int] = SHAPE, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Image and uint8 label `(b, 1, i, j, k)`; the noise differs from sample to sample."""
    noise = torch.randn((b, 1, *shape), generator=torch.Generator().manual_seed(b))
    label = organ(shape).to(torch.uint8).expand(b, 1, *shape).contiguous()
    return torch.where(label > 0, 100 + 15 * noise, 40 + 20 * noise).to(dtype), label


def uids(b: int, first: int = 1000) -> Tensor:
    return torch.arange(first, first + b)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit: NaN, its payload and the sign of zero included."""
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    if a.is_floating_point() and a.dtype == b.dtype:
        a, b = (x.contiguous().view(words[x.element_size()]) for x in (a, b))
    return a.dtype == b.dtype and torch.equal(a, b)

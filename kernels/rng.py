"""Counter-based random numbers: Philox4x32-10, the same bits on every device, in every order, alone or in a batch.

One layout everywhere: key = (seed low, seed high); counter = (index, purpose << 16 | slot, uid low, uid high), 32 bits each.
A *purpose* names what is drawn, a *slot* which lesion it is for, and the *index* counts the blocks of four words within them;
random fields use the position of a cell as index, so a voxel's noise depends on where it is and on nothing else.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpu_synth.kernels import _host, _launch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CHUNK = 1 << 17  # counters worked on at a time: enough to share among threads, few enough to stay in cache


def philox(counter: Sequence[Tensor], key: Sequence[int]) -> Tensor:
    """Encrypt 128-bit counters into four random 32-bit words each.

    Args:
        counter: Four int64 tensors of one shape (or that broadcast to one), each holding values in [0, 2³²).
        key: Two integers in [0, 2³²).

    Returns:
        int64 tensor of shape `(4, *shape)` with values in [0, 2³²).

    Source: Salmon et al. 2011, Philox4x32 with 10 rounds; equals the published known-answer vectors.
    """
    out = torch.stack(torch.broadcast_tensors(*counter))  # type: ignore[no-untyped-call]
    flat = out.view(4, -1)
    step = _CHUNK if _host.on_host(flat.device) else max(flat.shape[1], 1)
    for start in range(0, flat.shape[1], step):
        _encrypt(flat[:, start : start + step], key)
    return out


def _encrypt(words: Tensor, key: Sequence[int]) -> None:
    """Run the ten rounds on `(4, n)` words in place."""
    x0, x1, x2, x3 = (word.clone() for word in words)
    p0, p1 = torch.empty_like(x0), torch.empty_like(x0)
    k0, k1 = key
    for _ in range(_ROUNDS):
        torch.mul(x0, _MULTIPLIERS[0], out=p0)  # wraps modulo 2⁶⁴, and the 64 bits are the product's
        torch.mul(x2, _MULTIPLIERS[1], out=p1)
        torch.bitwise_right_shift(p1, 32, out=x0).bitwise_and_(_MASK).bitwise_xor_(x1).bitwise_xor_(k0)
        torch.bitwise_right_shift(p0, 32, out=x2).bitwise_and_(_MASK).bitwise_xor_(x3).bitwise_xor_(k1)
        torch.bitwise_and(p1, _MASK, out=x1)
        torch.bitwise_and(p0, _MASK, out=x3)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    for word, result in zip(words, (x0, x1, x2, x3), strict=True):
        word.copy_(result)


class Purpose(IntEnum):
    """What a stream of random words is for: the upper 16 bits of the counter's second word."""

    SCAN = 0
    COUNT = 1
    LESION = 2
    ELASTIC = 3
    DENSITY = 4
    SALT = 5
    PATCH = 6
    AUGMENT = 7
    PHANTOM = 8
    PLACEMENT = 9
    TRAIT = 10
    OUTLINE = 11
    SITE = 12
    GROWTH = 13
    FERTILITY = 14
    NODULE = 15


def split64(value: int) -> tuple[int, int]:
    """Split a 64-bit integer (two's complement) into its low and high 32 bits."""
    return value & _MASK, (value >> 32) & _MASK


def words(seed: int, uid: Int[Tensor, " b"], purpose: Purpose, slots: int, n: int) -> Int[Tensor, "b slots n"]:
    """Draw `n` random words for each slot of each sample.

    Args:
        seed: The run's seed, 64 bits.
        uid: The samples' ordinals in the run, int64.
        purpose: What the words are for.
        slots: Number of slots.
        n: Words per slot.

    Returns:
        int64 tensor with values in [0, 2³²).
    """
    blocks = -(-n // 4)
    index = torch.arange(blocks, device=uid.device)
    slot = torch.arange(slots, device=uid.device) | (int(purpose) << 16)
    low, high = (uid & _MASK)[:, None, None], ((uid >> 32) & _MASK)[:, None, None]
    drawn = philox((index, slot[:, None], low, high), split64(seed))
    return drawn.permute(1, 2, 3, 0).reshape(len(uid), slots, blocks * 4)[..., :n]


def halfwords(
    seed: int, uid: Int[Tensor, " b"], purpose: Purpose, index: Int[Tensor, "b n"], backend: str = "torch"
) -> Int[Tensor, "8 b n"]:
    """Draw eight 16-bit words for each index: low halves of the four words of a block, then their high halves.

    Args:
        seed: The run's seed, 64 bits.
        uid: The samples' ordinals in the run, int64.
        purpose: What the words are for.
        index: Position of each block in its sample's field, in [0, 2³²).
        backend: "torch" or "cupy".

    Returns:
        int32 tensor with values in [0, 2¹⁶).
    """
    return (_halfwords_cuda if backend == "cupy" else halfwords_torch)(seed, uid, purpose, index)


def _halfwords_cuda(seed: int, uid: Tensor, purpose: Purpose, index: Tensor) -> Tensor:
    out = torch.empty(8, *index.shape, dtype=torch.int32, device=index.device)
    sizes: list[object] = [len(uid), index.shape[1]]
    arguments: list[object] = [out, uid.contiguous(), index.contiguous(), _launch.key(seed), purpose, *sizes]
    _launch.launch("rng", "halfwords_kernel", (-(-index.numel() // 256), 1, 1), (256, 1, 1), arguments)
    return out


def halfwords_torch(seed: int, uid: Tensor, purpose: Purpose, index: Tensor) -> Tensor:
    """Twin of the kernel."""
    second = torch.full((), int(purpose) << 16, dtype=torch.int64, device=uid.device)
    drawn = philox((index, second, (uid & _MASK)[:, None], ((uid >> 32) & _MASK)[:, None]), split64(seed)).to(torch.int32)
    return torch.cat([drawn & 0xFFFF, (drawn >> 16) & 0xFFFF])


def to_uniform(word: Int[Tensor, "..."], low: Tensor | float = 0.0, high: Tensor | float = 1.0) -> Float[Tensor, "..."]:
    """Turn words into uniform numbers of 24 random bits: in [0, 1) exact in float32, in [low, high) rounded to it."""
    return (word >> 8).to(torch.float32) * 2.0**-24 * (high - low) + low


def to_integer(word: Int[Tensor, "..."], low: Tensor | int, high: Tensor | int) -> Int[Tensor, "..."]:
    """Turn words into integers uniform in [low, high], both inclusive; the bias is under (high − low + 1) / 2³²."""
    return low + (word * (high - low + 1) >> 32)


def to_normal(word: Int[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """Turn an even number of words into as many standard normal numbers (Box–Muller, in float64, rounded to float32)."""
    u = ((word >> 8).to(torch.float64) + 0.5) * 2.0**-24
    radius, angle = (-2.0 * u[..., 0::2].log()).sqrt(), 2.0 * math.pi * u[..., 1::2]
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -1).flatten(-2).to(torch.float32)

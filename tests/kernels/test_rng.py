"""Philox against the published vectors and a second implementation in plain integers; the draws against their laws.

Seeds are fixed, so a test passes always or never. Bounds are set where a right generator would exceed them once in 10⁶ seeds.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest, norm
from twins import assert_equal

from gpu_synth.kernels import _host, rng
from gpu_synth.kernels.rng import Purpose

RARE = 1e-6
SEEDS = [0, 1, -1, -(2**63), 2**63 - 1, 0x0123456789ABCDEF]
UIDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 17, 2**63 - 1, -1]


def philox(counter, key):
    """Salmon et al. 2011, figure 2, one block at a time in Python's own integers."""
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = x0 * 0xD2511F53, x2 * 0xCD9E8D57
        x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ k0, p1 % 2**32, (p0 >> 32) ^ x3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]


def block(seed, uid, purpose, slot, index):
    """The layout, as design says it: key = seed, counter = (index, purpose << 16 | slot, uid low, uid high)."""
    seed, uid = seed % 2**64, uid % 2**64
    return philox((index, int(purpose) << 16 | slot, uid % 2**32, uid >> 32), (seed % 2**32, seed >> 32))


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        pytest.param("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8", id="zeros"),
        pytest.param("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd", id="ones"),
        pytest.param("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1", id="pi"),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    counter, key, answer = ([int(word, 16) for word in words.split()] for words in (counter, key, answer))
    assert rng.philox([torch.tensor([word]) for word in counter], key)[:, 0].tolist() == answer
    assert philox(counter, key) == answer


@pytest.mark.parametrize("seed", SEEDS)
def test_words_follow_the_counter_layout(seed):
    slots, n = 3, 10
    for purpose in Purpose:
        drawn = rng.words(seed, torch.tensor(UIDS), purpose, slots, n)
        expected = [[[word for i in range(3) for word in block(seed, uid, purpose, s, i)][:n] for s in range(slots)] for uid in UIDS]
        assert drawn.tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_halfwords_are_a_blocks_low_halves_then_its_high_ones(seed):
    index = torch.tensor([0, 1, 77, 2**31, 2**32 - 1]).expand(len(UIDS), -1)
    drawn = rng.halfwords(seed, torch.tensor(UIDS), Purpose.SALT, index)
    for b, uid in enumerate(UIDS):
        for n, position in enumerate(index[b].tolist()):
            words = block(seed, uid, Purpose.SALT, 0, position)
            assert drawn[:, b, n].tolist() == [word % 2**16 for word in words] + [word >> 16 for word in words]


@pytest.mark.parametrize("on_host", [True, False], ids=["chunks", "at-once"])
def test_no_seam_between_chunks(on_host, monkeypatch):
    monkeypatch.setattr(_host, "on_host", lambda device: on_host)
    index = torch.arange(2 * rng._CHUNK + 5)
    zero = torch.zeros((), dtype=torch.int64)
    drawn = rng.philox((index, zero, zero + 3, zero), (5, 6))
    for n in (0, rng._CHUNK - 1, rng._CHUNK, 2 * rng._CHUNK - 1, 2 * rng._CHUNK, len(index) - 1):
        assert drawn[:, n].tolist() == philox((n, 0, 3, 0), (5, 6))


def test_fields_of_several_samples_are_those_of_each():
    index = torch.arange(rng._CHUNK // 2 + 3).expand(3, -1)
    uid = torch.tensor([5, 2**40, -2])
    together = rng.halfwords(9, uid, Purpose.DENSITY, index)
    for n in range(3):
        assert torch.equal(together[:, n], rng.halfwords(9, uid[n : n + 1], Purpose.DENSITY, index[:1])[:, 0])


def test_streams_share_no_block():
    blocks = [
        tuple(four)
        for seed, purpose in itertools.product(SEEDS, Purpose)
        for four in rng.words(seed, torch.tensor(UIDS), purpose, 4, 12).reshape(-1, 4).tolist()
    ]
    assert len(set(blocks)) == len(blocks)


# ---- laws -------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def word():
    return rng.words(20, torch.arange(64), Purpose.SCAN, 4, 1024)


def test_uniform_numbers_are_uniform(word):
    u = rng.to_uniform(word).flatten().double().numpy()
    assert u.min() >= 0
    assert u.max() < 1
    assert kstest(u, "uniform").pvalue > RARE
    for lag in (1, 2, 4, 1024, 4096):  # a word, a block, a slot, a sample apart: the correlation of n pairs has deviation 1/√n
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < norm.isf(RARE / 2) / math.sqrt(len(u) - lag)


def test_uniform_numbers_fill_the_range_asked_for(word):
    low, high = torch.tensor([-145.0]), torch.tensor([-65.0])
    u = rng.to_uniform(word, low, high).flatten().double().numpy()
    assert u.dtype == np.float64
    assert kstest(u, "uniform", args=(-145, 80)).pvalue > RARE


@pytest.mark.parametrize(("low", "high"), [(3, 5), (0, 0), (-2, 4), (5, 10), (0, 63)])
def test_integers_are_uniform_and_reach_both_ends(word, low, high):
    drawn = rng.to_integer(word, low, high)
    assert drawn.dtype == torch.int64
    counts = torch.bincount(drawn.flatten() - low).tolist()
    assert len(counts) == high - low + 1
    assert high == low or chisquare(counts).pvalue > RARE
    ends = rng.to_integer(torch.tensor([0, 2**32 - 1]), torch.tensor(low), torch.tensor(high))
    assert ends.tolist() == [low, high]


def test_normal_numbers_are_normal(word):
    x = rng.to_normal(word).flatten().double().numpy()
    assert x.shape == (word.numel(),)
    assert kstest(x, "norm").pvalue > RARE
    z = norm.isf(RARE / 2)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # of N(0, 1): E x²ᵖ − (E xᵖ)²
        assert abs((x**power).mean() - moment) < z * math.sqrt(variance / len(x))
    for lag in (1, 2, 1024):  # 1: the two that Box–Muller makes of one pair of words
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < z / math.sqrt(len(x) - lag)


def test_normal_numbers_are_finite_at_the_words_ends():
    words = torch.tensor(list(itertools.product((0, 255, 256, 2**31, 2**32 - 1), repeat=2)))
    assert rng.to_normal(words).isfinite().all()
    assert rng.to_normal(words).abs().max() < 6.0  # √(2 ln 2²⁵) = 5.9


@pytest.mark.parametrize("n", [1, 255, 1000])
def test_kernel_draws_the_twins_words(device, n):
    uid = torch.tensor([0, 2**40 + 3, -1])
    index = torch.stack([torch.arange(n), torch.arange(n) + 2**31, torch.arange(n) * 4099 % 2**32])
    for seed in (0, 2**63 - 1, -5):
        kernel = rng.halfwords(seed, uid.to(device), Purpose.SALT, index.to(device), "cupy")
        assert_equal(kernel, rng.halfwords(seed, uid, Purpose.SALT, index))

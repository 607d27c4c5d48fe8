"""Work on one item after another, here or in processes; a process that dies takes no other item with it."""

import os
from pathlib import Path

import pytest

from gpu_synth.pool import each


def square(n: int) -> int:
    if n < 0:
        os._exit(1)
    if n > 100:
        raise OSError("the disk is full")
    return n * n


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_comes_with_its_result(workers):
    assert sorted(each(square, [3, 1, 2], workers)) == [(1, 1), (2, 4), (3, 9)]
    assert list(each(square, [], workers)) == []


def test_a_process_that_dies_is_said():
    ((item, why),) = each(square, [-1], 1)
    assert item == -1
    assert "its process died, though no other ran beside it, most often for want of memory" in why


@pytest.mark.parametrize("workers", [1, 2])
def test_only_those_are_lost_whose_process_dies(workers):
    out = dict(each(square, [1, 2, -1, 3, 4, -2, 5], workers))
    assert {n for n, result in out.items() if isinstance(result, str)} == {-1, -2}
    assert {n: result for n, result in out.items() if n > 0} == {1: 1, 2: 4, 3: 9, 4: 16, 5: 25}


def die_once(flag: Path) -> str:
    """Die the first time, as for want of memory that others took."""
    if not flag.exists():
        flag.touch()
        os._exit(1)
    return "done"


def test_one_that_dies_once_is_done_again(tmp_path):
    assert list(each(die_once, [tmp_path / "flag"], 1)) == [(tmp_path / "flag", "done")]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_raised(workers):
    with pytest.raises(OSError, match="the disk is full"):
        list(each(square, [1, 101], workers))

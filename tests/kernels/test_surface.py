"""The band around an organ's surface: worked out in a box around it, it is what the whole array gives, to the bit."""

import pytest
import torch

from gpu_synth.kernels import _surface
from gpu_synth.kernels._surface import band


def masks(kind: str, shape=(70, 66, 58)) -> tuple[torch.Tensor, torch.Tensor]:
    """An organ and other labels: beside it, and far away."""
    organ, other = torch.zeros(2, *shape, dtype=torch.bool)
    if kind == "half":
        organ[35:] = True
    elif kind == "slab to the border":
        organ[30:36, 40:49, 50:] = True
    else:
        organ[:] = True
        organ[-3:, :5, 4:9] = False
    other[36:40] = True
    return organ, other & ~organ


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0)])
@pytest.mark.parametrize("kind", ["half", "slab to the border", "nearly all"])
def test_a_box_around_the_surface_gives_what_the_whole_array_gives(kind, spacing_mm, monkeypatch):
    organ, other = masks(kind)
    boxed = band(organ, other, spacing_mm)
    box = _surface._around_surface(organ)
    monkeypatch.setattr(_surface, "_around_surface", lambda mask: [(0, n) for n in mask.shape])
    whole = band(organ, other, spacing_mm)
    assert boxed is not None
    assert whole is not None
    assert any((start, end) != (0, n) for (start, end), n in zip(box, organ.shape, strict=True))
    for name in ("voxel", "gradient"):
        assert all(torch.equal(one, two) for one, two in zip(getattr(boxed, name), getattr(whole, name), strict=True))
    assert torch.equal(boxed.offset, whole.offset)
    assert torch.equal(boxed.share, whole.share)
    free = [torch.ones_like(one.share) if one.free is None else one.free for one in (boxed, whole)]
    assert torch.equal(*free)


@pytest.mark.parametrize("full", [False, True])
def test_without_a_surface_there_is_no_band(full):
    organ = torch.full((20, 20, 20), full)
    assert band(organ, ~organ, (1.0, 1.0, 1.0)) is None

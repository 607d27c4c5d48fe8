"""Synthesis as a CUDA graph: captured once for a shape, replayed with other images, labels and uids for the price of one launch."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from gpu_synth.kernels._cached import kept
from gpu_synth.plan_base import Spacing

_Made = TypeVar("_Made")


class _Captured(NamedTuple):
    """A graph, the buffers that it reads and what it fills, and whatever else it must keep alive."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    made: Any
    kept: list[Any]


class Replays:
    """Graphs by what they were captured for.

    Args:
        most: Graphs kept; each holds its buffers. What comes after is to be made without one, which is said once.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._captured: dict[tuple[object, ...], _Captured] = {}

    def __call__(self, make: Callable[..., _Made], inputs: tuple[Tensor, ...], spacing_mm: tuple[Spacing, ...], seed: int) -> _Made | None:
        """Make what `make(*inputs)` makes, in the graph's own buffers, which the next call fills anew; None where there is no room for one.

        `make` is given copies of the inputs, and may write into them.
        """
        key = (*((tuple(x.shape), x.dtype, x.device) for x in inputs), spacing_mm, seed)
        if key not in self._captured and len(self._captured) >= self._most:
            warnings.warn(
                f"graph=True keeps graphs for {self._most} shapes and spacings, got another, {tuple(inputs[0].shape)} at "
                f"{spacing_mm[0]} mm: it is made without one; bring patches to one shape and spacing",
                stacklevel=4,
            )
            return None
        with torch.cuda.device(inputs[0].device), torch.inference_mode(False):  # buffers that a validation made, a training could not fill
            if key not in self._captured:
                self._captured[key] = _capture(make, inputs)
            captured = self._captured[key]
            for buffer, value in zip(captured.inputs, inputs, strict=True):
                buffer.copy_(value)
            captured.graph.replay()
        made: _Made = captured.made
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "Replays":
        """A copy captures its own."""
        return Replays(self._most)

    def __reduce__(self) -> tuple[type["Replays"], tuple[int]]:
        """A graph lives where it was captured: what is pickled has none."""
        return Replays, (self._most,)


def _capture(make: Callable[..., Any], inputs: tuple[Tensor, ...]) -> _Captured:
    """Run once, so that everything is compiled and cached, then capture; threads that pin memory may go on meanwhile."""
    inputs = tuple(x.clone(memory_format=torch.contiguous_format) for x in inputs)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        make(*inputs)
    graph = torch.cuda.CUDAGraph()
    with kept() as keeper, torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        made = make(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    return _Captured(graph, inputs, made, keeper)

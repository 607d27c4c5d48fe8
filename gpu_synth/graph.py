"""Synthesis as a CUDA graph: captured once for a shape, replayed with other labels and uids for the price of one launch."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu_synth.kernels._cached import kept
from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.plan import TumorPlan
from gpu_synth.plan_base import Spacing
from gpu_synth.presets import Preset
from gpu_synth.render import Lesions

Make = Callable[[Tensor, Tensor], tuple[TumorPlan, list[Lesions]]]  # label, uid → what is to be blended in


class _Captured(NamedTuple):
    """A graph, the buffers that it reads and those that it fills, and whatever else it must keep alive."""

    graph: torch.cuda.CUDAGraph
    label: Tensor
    uid: Tensor
    plan: TumorPlan
    lesions: list[Lesions]
    kept: list[Any]


class Replays:
    """Graphs by what they were captured for.

    Plan and lesions depend on labels and uids alone, so the image needs no buffer: it is blended into after the replay.

    Args:
        most: Graphs kept; each holds its buffers. What comes after is made without one, and said once.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._captured: dict[tuple[object, ...], _Captured] = {}

    def __call__(
        self, make: Make, label: Tensor, uid: Tensor, spacing_mm: tuple[Spacing, ...], seed: int
    ) -> tuple[TumorPlan, list[Lesions]]:
        """Make plan and lesions; they are the graph's own buffers, which the next call fills anew."""
        key = (tuple(label.shape), label.dtype, label.device, spacing_mm, seed)
        if key not in self._captured and len(self._captured) >= self._most:
            warnings.warn(
                f"graph=True keeps graphs for {self._most} shapes and spacings, got another, {tuple(label.shape)} at {spacing_mm[0]} mm: "
                "it is made without one; bring patches to one shape and spacing",
                stacklevel=4,
            )
            return make(label, uid)
        if key not in self._captured:
            self._captured[key] = _capture(make, label, uid)
        captured = self._captured[key]
        captured.label.copy_(label)
        captured.uid.copy_(uid)
        with torch.cuda.device(label.device):
            captured.graph.replay()
        return captured.plan, captured.lesions

    def __deepcopy__(self, memo: dict[int, Any]) -> "Replays":
        """A copy captures its own."""
        return Replays(self._most)

    def __reduce__(self) -> tuple[type["Replays"], tuple[int]]:
        """A graph lives where it was captured: what is pickled has none."""
        return Replays, (self._most,)


def replays_for(preset: Preset | LesionPreset) -> Replays:
    """Graphs of a preset's synthesis.

    Raises:
        ValueError: Its lesions depend on the image, of which no graph holds a copy.
    """
    if isinstance(preset, LesionPreset):
        raise ValueError(f"graph must be False for preset {preset.name!r}, whose lesions depend on the image, got True")
    return Replays()


def _capture(make: Make, label: Tensor, uid: Tensor) -> _Captured:
    """Run once, so that everything is compiled and cached, then capture; threads that pin memory may go on meanwhile."""
    label, uid = label.clone(memory_format=torch.contiguous_format), uid.clone()
    with torch.cuda.device(label.device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            make(label, uid)
        graph = torch.cuda.CUDAGraph()
        with kept() as keeper, torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            plan, lesions = make(label, uid)
        torch.cuda.current_stream().wait_stream(side)
    return _Captured(graph, label, uid, plan, lesions, keeper)

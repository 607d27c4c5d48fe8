"""What a benchmark is made of: an operation, the settings that it is measured under, and a case ready to run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Backend = Literal["torch", "cupy"]

SEED = 0
SPACING_MM = (1.0, 1.0, 1.0)
ORGAN, TUMOUR = 1, 2  # numbers in labels
ORGAN_HU = 100.0


@dataclass(frozen=True)
class Setting:
    """What tells a row from the other rows of its name; None where it does not apply.

    Attributes:
        size_class: Size class of the lesions, or "all": each with the preset's probability.
        batch: Samples a call.
        patch: Edge of a cubic patch in voxels.
        backend: What draws and renders.
        graph: Whether it is a CUDA graph that is replayed.
        shape_vox: Spatial shape, where that is no cube.
        lesions: Lesions a sample, where that number is fixed.
        source: Where the tumours of a training come from: "none", "ours" or "published".
        workers: Processes of the data loader.
        model: The network that is trained meanwhile, and its precision.
        effect: What of the lesion model is on; of `host`, the preset.
    """

    size_class: str | None = None
    batch: int | None = None
    patch: int | None = None
    backend: Backend | None = None
    graph: bool | None = None
    shape_vox: tuple[int, int, int] | None = None
    lesions: int | None = None
    source: Literal["none", "ours", "published"] | None = None
    workers: int | None = None
    model: str | None = None
    effect: str | None = None

    @property
    def samples(self) -> int:
        """Samples a call, one where no batch is told."""
        return self.batch or 1

    @property
    def whole_vox(self) -> tuple[int, int, int]:
        """Spatial shape."""
        if self.shape_vox is not None:
            return self.shape_vox
        if self.patch is None:
            raise ValueError(f"setting must have a patch or a shape, got {self}")
        return (self.patch,) * 3


class NoColumns:
    """A case that adds no columns to its row."""

    def started(self) -> None:
        """Warm-up is over."""

    def columns(self, total_ms: float) -> dict[str, Any]:
        """Tell what only the run can tell, given how long it took."""
        return {}


@dataclass(frozen=True)
class Case:
    """An operation ready to run.

    Attributes:
        run: Does it once; what it returns is what it writes.
        reads: Tensors that it has to read.
        threads: Host threads that it may use; None: all.
        loop: Whether it is timed by the wall clock, as the step of a training is.
        warm_up: Runs before the clock starts.
        cycle: Runs come in multiples of it.
        watch: Who adds columns to the row.
        beside: What is timed beside it, on a host in turns, and what its time is told as a multiple of.
    """

    run: Callable[[], object]
    reads: object = ()
    threads: int | None = None
    loop: bool = False
    warm_up: int = 3
    cycle: int = 1
    watch: NoColumns = field(default_factory=NoColumns)
    beside: Callable[[], object] | None = None


Rows = Callable[[torch.device, bool], Sequence[Setting]]


class Operation(NamedTuple):
    """A name of the benchmark.

    Attributes:
        name: Name of its rows; that of a kernel family, where it is one.
        what: What is done, in words.
        tests: Files under tests/ that must pass before it is measured.
        settings: Its rows for a device, in the full set or in the short one.
        make: Makes the input of a row.
    """

    name: str
    what: str
    tests: tuple[str, ...]
    settings: Rows
    make: Callable[[torch.device, Setting], Case]


def backends(device: torch.device) -> tuple[Backend, ...]:
    """What can draw and render on a device."""
    from gpu_synth.kernels import _launch

    return ("torch",) if _launch.resolve("auto", device) == "torch" else ("torch", "cupy")


def modes(device: torch.device) -> list[tuple[Backend, bool]]:
    """Each backend, eager, and kernels as a graph too."""
    return [(backend, graph) for backend in backends(device) for graph in ((False, True) if backend == "cupy" else (False,))]


def patches(device: torch.device, setting: Setting) -> tuple[Tensor, Tensor]:
    """Images and labels that are all organ."""
    image = torch.full((setting.samples, 1, *setting.whole_vox), ORGAN_HU, device=device)
    return image, torch.ones_like(image, dtype=torch.uint8)


def bytes_of(values: object) -> int:
    """Bytes of all tensors and arrays in nested tuples and lists."""
    if isinstance(values, (Tensor, np.ndarray)):
        return int(values.nbytes)
    return sum(bytes_of(value) for value in values) if isinstance(values, (tuple, list)) else 0

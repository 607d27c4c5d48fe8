"""What a call of the kernels' backend costs its host: time with the launches left out, how many there are, and torch's operations.

The time is that of Python, torch's dispatcher and its allocator: kernels are not launched, torch's own operations are. On CUDA these are
launched for real, and nothing waits for them. On a CPU patches are tiny, so that an operation costs its dispatch and its allocation, and
nothing is looked at, as on CUDA nothing may be. That leaves out what only CUDA has: launches by CuPy, and what torch's own take beyond
their dispatch. (The meta device would not do for a clock: many operations are Python there, and take ten times as long.)

Operations are counted on the meta device, where tensors have sizes and no memory: on every machine they are those of a CUDA device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpu_synth import TumorSynthesizer
from gpu_synth.bench.case import SEED, SPACING_MM, Case, NoColumns, Setting, patches
from gpu_synth.kernels import _host, _launch

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "liver-hu2022": ("liver-hu2022", {}),
    "liver": ("liver", {}),
    "liver, growth": ("liver", {"growth": True}),
}
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty")


class Counts(NamedTuple):
    """What a call asks of its device.

    Attributes:
        launches: Kernels of this package.
        device_operations: Operations of torch that do something there: neither views nor bare allocations.
        operations: All of them, on the host too.
    """

    launches: int
    device_operations: int
    operations: int


def case(device: torch.device, setting: Setting) -> Case:
    """A call whose kernels are not launched."""
    name, overrides = PRESETS[setting.effect or "liver-hu2022"]
    image, label = patches(device, setting)
    with no_launches():
        synth = TumorSynthesizer(name, prob=1.0, seed=SEED, backend="cupy", **overrides)

    def run() -> object:
        with no_launches():
            return synth(image, label, SPACING_MM)

    return Case(run, loop=True, watch=_Counted(name, overrides, setting))


class _Counted(NoColumns):
    """Counts of the same call."""

    def __init__(self, name: str, overrides: dict[str, Any], setting: Setting) -> None:
        self.call = name, overrides, setting

    def columns(self, total_ms: float) -> dict[str, Any]:
        return count(*self.call)._asdict()


def count(name: str, overrides: dict[str, Any], setting: Setting) -> Counts:
    """Count what a call of a preset asks of its device, from the second call on: tables are there then."""
    launched: list[str] = []
    image, label = patches(torch.device("meta"), setting)
    with no_launches(lambda family, kernel, *_: launched.append(kernel)):
        synth = TumorSynthesizer(name, prob=1.0, seed=SEED, backend="cupy", **overrides)
        synth(image, label, SPACING_MM)
        launched.clear()
        with _Operations() as seen:
            synth(image, label, SPACING_MM)
    return Counts(len(launched), seen.of_device, seen.all)


class _Operations(TorchDispatchMode):
    """Count operations, and those that do something on the meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all = self.of_device = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_view = any(part.alias_info is not None and not part.alias_info.is_write for part in func._schema.returns)
        on_device = any(isinstance(x, torch.Tensor) and x.is_meta for x in tree_leaves((args, kwargs, out)))
        self.all += 1
        self.of_device += on_device and not is_view and func.overloadpacket.__name__ not in ALLOCATIONS
        return out


@contextmanager
def no_launches(instead: Callable[..., None] = lambda *_: None) -> Iterator[None]:
    """Let the kernels' backend work on any device, its launches left out, and look at no value, as on CUDA."""
    before = _launch.RUNNER, _host.on_host
    _launch.RUNNER, _host.on_host = instead, lambda device: False
    try:
        yield
    finally:
        _launch.RUNNER, _host.on_host = before

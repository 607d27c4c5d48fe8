"""Small tensors that are made once for a device and kept: what a CUDA graph has captured must outlive the cache that it came from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")
_keepers: list[list[Any]] = []


def cached(maxsize: int) -> Callable[[Callable[_Arguments, _Value]], Callable[_Arguments, _Value]]:
    """Remember results, as `lru_cache` does; inside `kept`, whoever asks for them keeps them alive."""

    def decorate(function: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
        remembered = lru_cache(maxsize=maxsize)(function)

        @wraps(function)
        def call(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Value:
            value: _Value = remembered(*arguments, **options)  # type: ignore[arg-type] # they must be hashable
            for keeper in _keepers:
                keeper.append(value)
            return value

        call.cache_clear = remembered.cache_clear  # type: ignore[attr-defined] # as lru_cache offers it
        return call

    return decorate


@contextmanager
def kept() -> Iterator[list[Any]]:
    """Collect every cached value that is used meanwhile."""
    keeper: list[Any] = []
    _keepers.append(keeper)
    try:
        yield keeper
    finally:
        _keepers.remove(keeper)


@cached(maxsize=256)
def on_device(values: tuple[Any, ...], device: torch.device) -> Float[Tensor, "..."]:
    """Host numbers as a float32 tensor, copied once and without waiting for the device."""
    return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)

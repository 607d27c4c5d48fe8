"""What a kernel declares, read off its source, so that a launcher can pass plain numbers, and refuse what the kernel would misread."""

import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Its name; what makes a value of a number, None where it is a pointer; and what it points to, None where that may be anything.
# A plain tuple: one with names takes twice as long to unpack, some three hundred times a call.
Parameter = tuple[str, Callable[[Any], object] | None, torch.dtype | None]

_POINTERS = {
    "float": torch.float32, "double": torch.float64, "int": torch.int32, "long long": torch.int64, "short": torch.int16,
    "unsigned short": torch.uint16, "unsigned char": torch.uint8, "bool": torch.bool, "void": None
}  # fmt: skip


def _numbers(kind: type[np.generic], read: Callable[[Any], Any]) -> Callable[[Any], object]:
    """What makes numbers of a NumPy type, each once: the same sizes come again and again, and NumPy takes longer than looking them up."""

    @lru_cache(maxsize=4096)
    def make(value: Any) -> object:
        if isinstance(value, Tensor):
            raise TypeError(f"a number must be given by value, got a tensor of shape {tuple(value.shape)}")
        return kind(read(value))

    return make


_NUMBERS = {
    "int": _numbers(np.int32, operator.index), "long long": _numbers(np.int64, operator.index),
    "unsigned long long": _numbers(np.uint64, operator.index), "float": _numbers(np.float32, float), "double": _numbers(np.float64, float)
}  # fmt: skip


def parameters(source: str, kernel: str) -> tuple[Parameter, ...] | None:
    """Parameters of a kernel, None where the source has none of its name."""
    declared = re.search(rf"\b{kernel}\((.*?)\)\s*{{", source, re.DOTALL)
    if declared is None:
        return None
    found: list[Parameter] = []
    for parameter in declared[1].split(","):
        kind, name = re.fullmatch(r"\s*(?:const )?(.+?[ *]+)(\w+)\s*", parameter, re.DOTALL).groups()  # type: ignore[union-attr]
        if "*" in kind:
            found.append((name, None, _POINTERS[kind.replace("*", "").strip().rstrip("234")]))
        else:
            found.append((name, _NUMBERS[kind.strip()], None))
    return tuple(found)

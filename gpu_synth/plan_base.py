"""What every plan can do, whatever it is a plan of: be sliced, joined, moved, edited, saved and loaded."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from importlib import import_module
from os import PathLike
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from typing_extensions import Self

from gpu_synth.files import whole_file

Spacing = tuple[float, float, float]
Scope = Literal["patch", "volume"]
SCOPES = ("patch", "volume")
_FORMAT = "gpu-synth plan 2"
_HOMES = {"TumorPlan": "gpu_synth.plan", "LesionPlan": "gpu_synth.lesion_plan"}


@dataclass(frozen=True, eq=False)
class Plan:
    """Lesions for a batch of `b` samples, in a fixed number of slots a sample.

    Attributes:
        seed: The run's seed.
        scope: "patch": the plan belongs to the array it was made for. "volume": crops of that array may be rendered too.
        whole_vox: Spatial shape that the plan was made for.
        spacing_mm: Spacing of each sample.
        uid: Ordinal of each sample in the run, int64.
        skipped: Samples that were to be altered and cannot be: no place in the organ, or a tumour already there.
        active: Slots in use.
    """

    seed: int
    scope: Scope
    whole_vox: tuple[int, int, int]
    spacing_mm: tuple[Spacing, ...]
    uid: Int[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    active: Bool[Tensor, "b slots"]

    def __len__(self) -> int:
        return len(self.spacing_mm)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Self:
        """Take samples: a number, a slice or a list of numbers; always a plan. A slice is a view, which waits for nothing."""
        if isinstance(which, slice) and which.indices(len(self)) == (0, len(self), 1):
            return self
        if isinstance(which, slice) and which.step in (None, 1):
            views: dict[str, Any] = {name: tensor[which] for name, tensor in self.tensors().items()}
            return replace(self, spacing_mm=self.spacing_mm[which], **views)
        numbers = range(len(self))[which] if isinstance(which, slice) else [which] if isinstance(which, int) else list(which)
        rows = [range(len(self))[n] for n in numbers]  # raises IndexError, resolves negative numbers
        index = torch.tensor(rows, dtype=torch.int64).to(self.device, non_blocking=True)
        tensors: dict[str, Any] = {name: tensor.index_select(0, index) for name, tensor in self.tensors().items()}
        return replace(self, spacing_mm=tuple(self.spacing_mm[n] for n in rows), **tensors)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.uid.device

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if isinstance(getattr(self, field.name), Tensor)}

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device; from one to the host, once it is there, for torch would hand over memory that is still being written."""
        ahead = torch.device(device).type != "cpu"
        tensors: dict[str, Any] = {name: tensor.to(device, non_blocking=ahead) for name, tensor in self.tensors().items()}
        return replace(self, **tensors)

    @classmethod
    def cat(cls, plans: Sequence[Self]) -> Self:
        """Join plans along the batch.

        Raises:
            ValueError: There is none, or they differ in seed, scope, whole or bounds.
        """
        if not plans:
            raise ValueError("plans must hold at least one plan, got none")
        first = plans[0]
        if len(plans) == 1:
            return first
        for name in first._host():
            if any(isinstance(getattr(plan, name), Tensor) for plan in plans):
                continue  # said below
            got = {getattr(plan, name) for plan in plans}
            if len(got) > 1:
                raise ValueError(f"plans must agree in {name}, got {sorted(got)}; render them one by one")
        fields_of = {tuple(plan.tensors()) for plan in plans}
        if len(fields_of) > 1:
            raise ValueError(f"plans must have the same fields, got {' and '.join(', '.join(names) for names in sorted(fields_of))}")
        tensors: dict[str, Any] = {name: torch.cat([getattr(plan, name) for plan in plans]) for name in first.tensors()}
        return replace(first, spacing_mm=tuple(spacing for plan in plans for spacing in plan.spacing_mm), **tensors)

    def edit(self, **tensors: Tensor) -> Self:
        """Copy with some tensors changed. Reads the device, to refuse what could not be rendered.

        Args:
            **tensors: Fields and their new values, of the same shape.

        Raises:
            ValueError: A field is unknown, of another shape, not finite, or beyond the plan's bounds.
        """
        old = self.tensors()
        for name, value in tensors.items():
            if name not in old:
                known = self._editable()
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"plan field must be one of {', '.join(known)}, got {name!r}{hint}")
            if not isinstance(value, Tensor) or value.shape != old[name].shape:
                raise ValueError(f"{name} must be a tensor of shape {tuple(old[name].shape)}, got {described(value)}")
        changed: dict[str, Any] = {name: value.to(old[name].device, old[name].dtype) for name, value in tensors.items()}
        plan = replace(self, **changed)
        plan._check_bounds()
        return plan

    def _check_bounds(self) -> None:
        """Refuse values that could not be rendered."""
        for name, tensor in self.tensors().items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} must be finite, got NaN or infinity")

    def _editable(self) -> list[str]:
        """What `edit` takes."""
        return list(self.tensors())

    def _host(self) -> dict[str, Any]:
        """What is no tensor and the same for all samples."""
        return {
            f.name: getattr(self, f.name) for f in fields(self) if f.name != "spacing_mm" and not isinstance(getattr(self, f.name), Tensor)
        }

    @classmethod
    def _of_host(cls, host: dict[str, Any]) -> dict[str, Any]:
        """What `save` wrote of it, read back."""
        return {name: _as_tuple(value) for name, value in host.items()}

    def _sizes(self) -> dict[str, int]:
        """Lengths that the annotations of tensors name."""
        return {"b": len(self), "slots": self.active.shape[-1]}

    def to_records(self) -> list[dict[str, Any]]:
        """List what was asked for: one plain dict a lesion. Reads the device."""
        raise NotImplementedError

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan as safetensors; the file is whole or absent."""
        host = {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in self._host().items()}
        metadata = {"plan": json.dumps({"format": _FORMAT, "kind": type(self).__name__, "spacing_mm": self.spacing_mm, **host})}
        content = save({name: tensor.contiguous().cpu() for name, tensor in self.tensors().items()}, metadata)
        with whole_file(path) as stream:
            stream.write(content)

    @staticmethod
    def load(path: str | PathLike[str]) -> "Plan":
        """Read a plan that `save` wrote, of whichever kind, onto the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no plan.
        """
        try:
            with safe_open(path, framework="pt") as file:
                host = json.loads((file.metadata() or {})["plan"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if host.pop("format") != _FORMAT:
                raise KeyError(f"its format is not {_FORMAT!r}")
            name = host.pop("kind")
            kind: type[Plan] = getattr(import_module(_HOMES[name]), name)
            plan = kind(**kind._of_host(host), **tensors)
            _check_shapes(plan)
            plan._check_bounds()
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path must be a plan that its save wrote, got {path}: {error!r}") from error
        return plan


def _check_shapes(plan: Plan) -> None:
    """Refuse tensors of other shapes or types than the annotations of its fields, and a spacing that is none."""
    if not all(len(triple) == 3 and all(0 < value < math.inf for value in triple) for triple in (plan.whole_vox, *plan.spacing_mm)):
        raise ValueError(f"spacing_mm and whole_vox must hold three numbers above 0, got {plan.spacing_mm} and {plan.whole_vox}")
    sizes = plan._sizes()
    for field in fields(plan):
        if (dims := getattr(field.type, "dim_str", None)) is None:
            continue
        tensor, shape = getattr(plan, field.name), tuple(sizes[dim] if dim in sizes else int(dim) for dim in dims.split())
        if not isinstance(tensor, field.type) or tensor.shape != shape:  # type: ignore[arg-type] # a jaxtyping type, no string
            raise ValueError(f"{field.name} must be {field.type} of shape {shape}, got {tensor.dtype} of shape {tuple(tensor.shape)}")


def described(value: Any) -> str:
    """Tell what a value is, without its numbers."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value

"""TumorPlan: what is to be synthesised, as data. It can be looked at, edited, sliced, saved and rendered again."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gpu_synth.files import whole_file
from gpu_synth.kernels import _host
from gpu_synth.kernels._cached import cached
from gpu_synth.kernels._cells import Field, cell_vox
from gpu_synth.kernels.shape import AXIS_PAIRS, box_vox
from gpu_synth.kernels.texture import Normalised, Texture
from gpu_synth.table import Bounds

Spacing = tuple[float, float, float]
Scope = Literal["patch", "volume"]
SCOPES = ("patch", "volume")
_FORMAT = "gpu-synth plan 1"


@dataclass(frozen=True, eq=False)
class TumorPlan:
    """Lesions for a batch of `b` samples, in a fixed number of slots a sample.

    Lengths are millimetres; positions are voxels of the whole that the plan was made for, in the tensor's axis order.
    The plan holds every scalar draw and the key (`seed`, `uid`); the texture's noise is a function of key and position.

    Attributes:
        seed: The run's seed.
        scope: "patch": the plan belongs to the array it was made for. "volume": crops of that array may be rendered too.
        whole_vox: Spatial shape that the plan was made for.
        spacing_mm: Spacing of each sample.
        bounds: What the tensors stay within.
        uid: Ordinal of each sample in the run, int64.
        skipped: Samples that were to be altered and cannot be: no place in the organ, or a tumour already there.
        active: Slots in use.
        centre_vox: Lesion centres.
        radii_mm: Semi-axes.
        elastic_mm: Displacements at 3 × 3 control points, for the axis pairs (0, 1), (1, 2), (0, 2) and each axis of a pair.
        contrast_hu: HU of a lesion less HU of the organ, at full texture.
        edge_sigma_mm: Width of the blur of edges.
        density_sigma_mm: Width of the smoothing of the density.
        density_low: Least value of the smoothed noise in the whole, an integer.
        density_high: Its greatest value.
        density_scale: Range of the density.
        density_offset: Its lowest value.
        grain_sigma_mm: Width of the smoothing of the salt.
        texture_gain: Factor from grain to texture.
    """

    seed: int
    scope: Scope
    whole_vox: tuple[int, int, int]
    spacing_mm: tuple[Spacing, ...]
    bounds: Bounds
    uid: Int[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    active: Bool[Tensor, "b slots"]
    centre_vox: Int[Tensor, "b slots 3"]
    radii_mm: Float[Tensor, "b slots 3"]
    elastic_mm: Float[Tensor, "b slots 3 2 3 3"]
    contrast_hu: Float[Tensor, " b"]
    edge_sigma_mm: Float[Tensor, " b"]
    density_sigma_mm: Float[Tensor, " b"]
    density_low: Int[Tensor, " b"]
    density_high: Int[Tensor, " b"]
    density_scale: Float[Tensor, " b"]
    density_offset: Float[Tensor, " b"]
    grain_sigma_mm: Float[Tensor, " b"]
    texture_gain: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.spacing_mm)

    def __getitem__(self, which: int | slice | Sequence[int]) -> "TumorPlan":
        """Take samples: a number, a slice or a list of numbers; always a plan. A slice is a view, which waits for nothing."""
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

    def to(self, device: torch.device | str) -> "TumorPlan":
        """Copy to a device."""
        tensors: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors().items()}
        return replace(self, **tensors)

    def shapes_vox(self) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
        """Semi-axes `(b, slots, 3)`, elastic displacements `(b, slots, 3, 2, 3, 3)` and slots' boxes, for samples of one spacing."""
        spacing_mm = self.spacing_mm[0]
        along_pairs = tuple((spacing_mm[a], spacing_mm[b]) for a, b in AXIS_PAIRS)
        boxes = [box_vox(radius, self.spacing_mm[0]) for radius in self.bounds.slot_radius_mm]
        elastic_vox = self.elastic_mm / on_device(along_pairs, self.device)[..., None, None]
        return self.radii_mm / on_device(spacing_mm, self.device), elastic_vox, boxes

    def edges_vox(self) -> tuple[Tensor, tuple[float, float, float]]:
        """Widths of edges `(b, 3)` and their bound along each axis, for samples of one spacing."""
        return _widths_vox(self.edge_sigma_mm, self.bounds.edge_sigma_mm, self.spacing_mm[0])

    def texture_field(self) -> tuple[Field, Texture]:
        """The texture's random field and how it becomes a texture, for samples of one spacing."""
        norm = Normalised(self.density_low, self.density_high, self.density_scale, self.density_offset)
        sigmas = (self.density_sigma_mm, self.grain_sigma_mm)
        field = texture_field(self.seed, self.uid, self.whole_vox, self.spacing_mm[0], *sigmas, self.bounds)
        return field, Texture(norm, self.texture_gain)

    @staticmethod
    def cat(plans: Sequence["TumorPlan"]) -> "TumorPlan":
        """Join plans along the batch.

        Raises:
            ValueError: There is none, or they differ in seed, scope, whole or bounds.
        """
        if not plans:
            raise ValueError("plans must hold at least one plan, got none")
        first = plans[0]
        if len(plans) == 1:
            return first
        for name in ("seed", "scope", "whole_vox", "bounds"):
            got = {getattr(plan, name) for plan in plans}
            if len(got) > 1:
                raise ValueError(f"plans must agree in {name}, got {sorted(got)}; render them one by one")
        tensors: dict[str, Any] = {name: torch.cat([getattr(plan, name) for plan in plans]) for name in first.tensors()}
        return replace(first, spacing_mm=tuple(spacing for plan in plans for spacing in plan.spacing_mm), **tensors)

    def edit(self, **tensors: Tensor) -> "TumorPlan":
        """Copy with some tensors changed. Reads the device, to refuse what could not be rendered.

        Args:
            **tensors: Fields and their new values, of the same shape.

        Raises:
            ValueError: A field is unknown, of another shape, not finite, or beyond the plan's bounds.
        """
        old = self.tensors()
        for name, value in tensors.items():
            if name not in old:
                raise ValueError(f"plan field must be one of {', '.join(old)}, got {name!r}")
            if not isinstance(value, Tensor) or value.shape != old[name].shape:
                raise ValueError(f"{name} must be a tensor of shape {tuple(old[name].shape)}, got {_describe(value)}")
        changed: dict[str, Any] = {name: value.to(old[name].device, old[name].dtype) for name, value in tensors.items()}
        plan = replace(self, **changed)
        plan._check_bounds()
        return plan

    def _check_bounds(self) -> None:
        reach = 2.0 * torch.tensor(self.bounds.slot_radius_mm, device=self.device)[:, None]
        limits: dict[str, tuple[float, float | Tensor]] = {
            "radii_mm": (0.0, reach),
            "edge_sigma_mm": (0.0, self.bounds.edge_sigma_mm),
            "density_sigma_mm": (0.0, self.bounds.density_sigma_mm),
            "grain_sigma_mm": self.bounds.grain_sigma_mm,
        }
        for name, tensor in self.tensors().items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} must be finite, got NaN or infinity")
            low, high = limits.get(name, (-torch.inf, torch.inf))
            if not ((tensor >= low) & (tensor <= high + 1e-4)).all():
                most = high.max().item() if isinstance(high, Tensor) else high
                raise ValueError(
                    f"{name} must stay within what the preset can draw ({low:g} to {most:g}; a lesion's semi-axes to twice its slot's "
                    f"base radius), got {tensor.min().item():g} to {tensor.max().item():g}; make the plan with wider ranges"
                )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan as safetensors; the file is whole or absent."""
        host = {"format": _FORMAT, "seed": self.seed, "scope": self.scope, "whole_vox": self.whole_vox, "spacing_mm": self.spacing_mm}
        metadata = {"plan": json.dumps({**host, "bounds": self.bounds._asdict()})}
        content = save({name: tensor.contiguous().cpu() for name, tensor in self.tensors().items()}, metadata)
        with whole_file(path) as stream:
            stream.write(content)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "TumorPlan":
        """Read a plan that `save` wrote, onto the CPU.

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
            bounds = Bounds(**{name: _as_tuple(value) for name, value in host.pop("bounds").items()})
            plan = cls(bounds=bounds, **{name: _as_tuple(value) for name, value in host.items()}, **tensors)
            _check_shapes(plan)
            plan._check_bounds()
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path must be a plan that TumorPlan.save wrote, got {path}: {error!r}") from error
        return plan

    def to_records(self) -> list[dict[str, Any]]:
        """List what was asked for: one plain dict a lesion. Reads the device.

        Returns:
            Dicts with `uid`, `lesion` (its number in `Render.instances`), `centre_vox`, `radii_mm`, `base_radius_mm`, `contrast_hu`,
            `edge_sigma_mm`, `grain_sigma_mm`, `density_sigma_mm`.
        """
        shared = {name: getattr(self, name).tolist() for name in ("contrast_hu", "edge_sigma_mm", "grain_sigma_mm", "density_sigma_mm")}
        uid, centre, radii = self.uid.tolist(), self.centre_vox.tolist(), self.radii_mm.tolist()
        return [
            {
                "uid": uid[sample],
                "lesion": slot + 1,
                "centre_vox": tuple(centre[sample][slot]),
                "radii_mm": tuple(radii[sample][slot]),
                "base_radius_mm": self.bounds.slot_radius_mm[slot],
                **{name: values[sample] for name, values in shared.items()},
            }
            for sample, slot in self.active.nonzero().tolist()
        ]


def texture_field(
    seed: int,
    uid: Int[Tensor, " b"],
    whole_vox: tuple[int, int, int],
    spacing_mm: Spacing,
    density_sigma_mm: Float[Tensor, " b"],
    grain_sigma_mm: Float[Tensor, " b"],
    bounds: Bounds,
) -> Field:
    """A texture's random field in voxels, for samples of one spacing."""
    density = _widths_vox(density_sigma_mm, bounds.density_sigma_mm, spacing_mm)
    grain = _widths_vox(grain_sigma_mm, bounds.grain_sigma_mm[1], spacing_mm)
    return Field(seed, uid, whole_vox, cell_vox(bounds.grain_sigma_mm[0], spacing_mm), *density, *grain)


def margin_vox(margin_mm: float, spacing_mm: Spacing) -> tuple[int, int, int]:
    """A distance as whole voxels along each axis, at least one."""
    i, j, k = (max(1, round(margin_mm / spacing)) for spacing in spacing_mm)
    return i, j, k


@cached(maxsize=256)
def on_device(values: tuple[Any, ...], device: torch.device) -> Float[Tensor, "..."]:
    """Host numbers as a float32 tensor, copied once and without waiting for the device."""
    return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)


def _widths_vox(sigma_mm: Tensor, bound_mm: float, spacing_mm: Spacing) -> tuple[Tensor, tuple[float, float, float]]:
    """Widths in voxels `(b, 3)`, and a bound along each axis: their own largest where the host may look, else the plan's."""
    if _host.on_host(sigma_mm.device):
        bound_mm = float(sigma_mm.max())
    i, j, k = (bound_mm / spacing for spacing in spacing_mm)
    return sigma_mm[:, None] / on_device(spacing_mm, sigma_mm.device), (i, j, k)


def _check_shapes(plan: TumorPlan) -> None:
    """Refuse tensors of other shapes or types than the annotations of `TumorPlan`, and a spacing that is none."""
    if not all(len(triple) == 3 and all(0 < value < math.inf for value in triple) for triple in (plan.whole_vox, *plan.spacing_mm)):
        raise ValueError(f"spacing_mm and whole_vox must hold three numbers above 0, got {plan.spacing_mm} and {plan.whole_vox}")
    sizes = {"b": len(plan), "slots": len(plan.bounds.slot_radius_mm)}
    for field in fields(plan):
        if (dims := getattr(field.type, "dim_str", None)) is None:
            continue
        tensor, shape = getattr(plan, field.name), tuple(sizes[dim] if dim in sizes else int(dim) for dim in dims.split())
        if not isinstance(tensor, field.type) or tensor.shape != shape:  # type: ignore[arg-type] # a jaxtyping type, no string
            raise ValueError(f"{field.name} must be {field.type} of shape {shape}, got {tensor.dtype} of shape {tuple(tensor.shape)}")


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value

"""Which rows each name has on a device: the full set, or the short one that a CPU is given by default."""

import torch

from gpu_synth.bench.case import Setting, backends, modes
from gpu_synth.bench.effects import EFFECTS
from gpu_synth.bench.host import PRESETS
from gpu_synth.bench.machine import cores
from gpu_synth.presets import SIZE_CLASSES

ALL = "all"
CLASSES = (*SIZE_CLASSES, ALL)
LESIONS = (1, 4, 16, 64)
MIX_LESIONS = (6, 8, 4, 2)  # of each size group in the smaller volume: 20, about the middle of what is drawn
DOUBLED_VOX = ((96, 96, 96), (192, 96, 96))
CUDA_MODEL, HOST_MODEL = "swin-unetr-tiny bfloat16", "swin-unetr-tiny float32"
HOST_VOX = (64, 32, 32)  # what a CPU can train on


def fields(device: torch.device, full: bool) -> list[Setting]:
    """Kernel families that work on patches: each backend; one patch on a host, 16 on CUDA."""
    return [Setting(None, _many(device), 96, backend, False) for backend in backends(device)]


def scalars(device: torch.device, full: bool) -> list[Setting]:
    """Kernel families that see no patch: each backend; one sample on a host, 16 on CUDA."""
    return [Setting(None, _many(device), None, backend, False) for backend in backends(device)]


def synthesis(device: torch.device, full: bool) -> list[Setting]:
    """Batches and patches of every size class, each backend, eager and as a graph; torch on CUDA at 96³ alone, to compare with."""
    edges = (64, 96, 128) if full else (96,)
    batches: tuple[int, ...] = (2, 8, 16, 32) if full else (16,)
    if device.type == "cpu":
        batches = (1, 2, 8) if full else (1, 2)
    return [
        Setting(name, b, n, *mode)
        for mode in modes(device)
        for n in edges
        for b in batches
        for name in CLASSES
        if n == 96 or mode[0] == "cupy" or device.type == "cpu"
    ]


def liver(device: torch.device, full: bool) -> list[Setting]:
    """The full lesion model, each backend: one patch on a host, 16 on CUDA."""
    return [Setting(ALL, _many(device), 96, backend, False) for backend in backends(device)]


def effects(device: torch.device, full: bool) -> list[Setting]:
    """The published method, the lesion model with each effect alone, and with all of them."""
    return [Setting(ALL, _many(device), 96, backend, False, effect=effect) for backend in backends(device) for effect in EFFECTS]


def host(device: torch.device, full: bool) -> list[Setting]:
    """A training's batch by preset; on a host that has no other device, of patches so small that an operation costs its dispatch."""
    return [Setting(batch=16, patch=96 if device.type == "cuda" else 8, effect=name) for name in PRESETS]


def one_core(device: torch.device, full: bool) -> list[Setting]:
    """A patch of all classes, on a host."""
    return [Setting(ALL, 1, 96, "torch", False)] if device.type == "cpu" else []


def lesions(device: torch.device, full: bool) -> list[Setting]:
    """From one lesion to as many as a preset may ask for."""
    return [Setting("small", _many(device), 96, *mode, lesions=n) for mode in modes(device) for n in LESIONS] if full else []


def volume(device: torch.device, full: bool) -> list[Setting]:
    """A volume, and twice that volume with twice the lesions."""
    counts = [sum(MIX_LESIONS) * shape[0] // shape[2] for shape in DOUBLED_VOX]
    return [
        Setting("mix", _many(device), None, *mode, shape_vox=shape, lesions=count)
        for mode in modes(device)
        for shape, count in zip(DOUBLED_VOX, counts, strict=True)
        if full
    ]


def step_share(device: torch.device, full: bool) -> list[Setting]:
    """The published training's step, on CUDA."""
    return [Setting(ALL, 2, 96, *mode, source="ours", model=CUDA_MODEL) for mode in modes(device)] if device.type == "cuda" else []


def host_step_share(device: torch.device, full: bool) -> list[Setting]:
    """A step that a CPU can bear."""
    on_host = device.type == "cpu" and full
    return [Setting(ALL, 2, None, "torch", False, shape_vox=HOST_VOX, source="ours", model=HOST_MODEL)] if on_host else []


def published(device: torch.device, full: bool) -> list[Setting]:
    """Every size class, and all of them one after another; the backend is NumPy and SciPy."""
    return [Setting(name, 1, 96, source="published") for name in CLASSES]


def published_banked(device: torch.device, full: bool) -> list[Setting]:
    """All size classes one after another."""
    return [Setting(ALL, 1, 96, source="published")]


def end_to_end(device: torch.device, full: bool) -> list[Setting]:
    """No synthesis, ours, and the published method with one, four and all workers; on CUDA with a model in training, and without."""
    few, rows = min(4, cores()), []
    for model in (CUDA_MODEL, None) if device.type == "cuda" else (None,):
        rows.append(Setting(ALL, 2, 96, source="none", workers=few, model=model))
        rows += [Setting(ALL, 2, 96, *mode, source="ours", workers=few, model=model) for mode in modes(device)]
        rows += [Setting(ALL, 2, 96, source="published", workers=n, model=model) for n in sorted({1, 4, cores()})]
    return rows


def resident(device: torch.device, full: bool) -> list[Setting]:
    """A training's batches, healthy and synthesised, from the device's own memory."""
    return _feed(device, 0)


def from_disk(device: torch.device, full: bool) -> list[Setting]:
    """The same by two workers."""
    return _feed(device, 2)


def _feed(device: torch.device, workers: int) -> list[Setting]:
    ours = [Setting(ALL, 2, 96, *mode, source="ours", workers=workers) for mode in modes(device) if not mode[1]]
    return [Setting(ALL, 2, 96, source="none", workers=workers), *ours]


def _many(device: torch.device) -> int:
    return 16 if device.type == "cuda" else 1

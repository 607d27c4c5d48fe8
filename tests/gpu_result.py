"""What a benchmark on a GPU would hand over: every row that there is on CUDA, with figures that are made up."""

import torch

from gpu_synth.bench import case, run
from gpu_synth.bench.case import Operation, Setting
from gpu_synth.bench.measure import Failure, Result, Row, against_published

MACHINE = {
    "device": "NVIDIA H100 80GB HBM3",
    "driver": "580.65.06",
    "versions": {"gpu-synth": "0.1.0", "python": "3.12.3", "torch": "2.11.0+cu130", "cupy-cuda12x": None, "cupy-cuda13x": "14.2.0"},
    "commit": "0123456789ab",
    "date": "2026-01-02",
    "host": "Intel(R) Xeon(R) Platinum 8480C",
    "cores": 16,
    "threads": 16,
}
LOOPS = ("host", "step-share", "feed-resident", "feed-disk", "end-to-end")
MS = {None: 140.0, "torch": 40.0, "cupy": 1.25}  # a call, by backend; more where it has more voxels


def rows_on_cuda(monkeypatch) -> list[tuple[Operation, Setting]]:
    """The rows of a GPU with CuPy."""
    monkeypatch.setattr(case, "backends", lambda device: ("torch", "cupy"))
    monkeypatch.setattr("gpu_synth.bench.settings.backends", case.backends)
    return run.rows(None, torch.device("cuda"), full=True)


def gpu_result(monkeypatch) -> Result:
    """A whole run; one row did not fit into memory."""
    made = [_row(number, operation, setting) for number, (operation, setting) in enumerate(rows_on_cuda(monkeypatch))]
    missing = Failure(
        name="synthesis", why="CUDA out of memory", out_of_memory=True, backend="torch", batch=32, patch=128, size_class="mix"
    )
    return Result(MACHINE, 2911.5, None, against_published(made), [missing])


def _row(number: int, operation: Operation, setting: Setting) -> Row:
    voxels = setting.samples * (setting.patch or 96) ** 3 / 96**3
    ms = MS[setting.backend] * voxels * (0.5 if setting.graph else 1.0) * (1.0 + number / 997)
    loop = operation.name in LOOPS
    times_plain = 1.25 if operation.name == "effects" and setting.effect != "published method" else None
    floor_ms = 0.0024375 * voxels if setting.backend and not loop else None
    counts = {"launches": 27, "device_operations": 41, "operations": 152} if operation.name == "host" else {}
    return Row(
        **vars(setting),
        **counts,
        name=operation.name,
        what=operation.what,
        ms=ms,
        mean_ms=1.01 * ms,
        p90_ms=1.2 * ms,
        runs=240,
        device_ms=0.4 * ms if floor_ms else None,
        call_ms=1.02 * ms if floor_ms else None,
        bytes=7096320 if floor_ms else None,
        floor_ms=floor_ms,
        times_floor=ms / floor_ms if floor_ms else None,
        images_per_second=1000 * setting.samples / (1.01 * ms) if setting.size_class else None,
        times_plain=times_plain,
        share=0.0123 if operation.name == "step-share" else None,
        gpu_utilisation=0.87 if loop and setting.source else None,
    )

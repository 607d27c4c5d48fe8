"""Everything about a machine that a figure depends on."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import gpu_synth

REPOSITORY = Path(gpu_synth.__file__).resolve().parent.parent  # or the folder that it is installed in
_PACKAGES = ("numpy", "scipy", "monai", "cupy-cuda12x", "cupy-cuda13x")


def machine(device: torch.device) -> dict[str, Any]:
    """Name device, driver, versions, commit and date; on CUDA, `host` is the processor beside it."""
    on_cuda = device.type == "cuda"
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0] if on_cuda else ""
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else processor(),
        "driver": driver or None,
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "host": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str | None]:
    """Versions of whatever computes; None: not there."""
    known: dict[str, str | None] = {"gpu-synth": gpu_synth.__version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in _PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = None
    return {**known, "cuda": torch.version.cuda}


def commit() -> str:
    """Commit of the checkout that runs, and whether it has changes."""
    if not is_checkout():
        return "none: installed"
    known = _output("git", "-C", str(REPOSITORY), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(REPOSITORY), "status", "--porcelain", "--untracked-files=no")
    return f"{known or 'unknown'}{' with changes' if changed else ''}"


def is_checkout() -> bool:
    """Whether the repository is what runs, rather than an installed package."""
    return (REPOSITORY / "pyproject.toml").is_file() and (REPOSITORY / "tests").is_dir()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""

"""`gpu-synth bench`: one command, one table, one JSON file with the machine named."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from rich.console import Console
from rich.table import Table

import gpu_synth
from gpu_synth.bench.registry import OPERATIONS, Operation
from gpu_synth.files import whole_file
from gpu_synth.presets import SIZE_CLASSES

_REPOSITORY = Path(gpu_synth.__file__).resolve().parent.parent
_REFERENCE = "scipy.ndimage.gaussian_filter, 96³ float64, σ 4"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one operation, and of copying the bytes that it must move."""

    name: str
    shapes: str
    mean_ms: float
    median_ms: float
    p90_ms: float
    floor_ms: float


def bench(names: list[str] | None = None, device: str = "auto", seconds: float = 2.0, tests: bool = True, out: Path | None = None) -> int:
    """Measure the kernels and the synthesis, and print a table.

    Args:
        names: Operations to measure; all by default.
        device: "cpu", "cuda", or "auto" for an accelerator where there is one.
        seconds: Time spent on each operation.
        tests: Run the operations' tests first; nothing is measured if they fail.
        out: JSON file to write the results to.

    Returns:
        0, or 1 where a test fails.

    Raises:
        ValueError: A name is unknown, or the device is not there.
    """
    known = [operation.name for operation in OPERATIONS]
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"names must be among {', '.join(known)}, got {', '.join(unknown)}")
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device must be 'auto', 'cpu' or a 'cuda' that is there, got {device!r}")
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    chosen = [operation for operation in OPERATIONS if not names or operation.name in names]
    console = Console()
    if tests and not _tests_pass(chosen, console):
        return 1
    result = measure(chosen, where, seconds)
    _show(result, console)
    if out is not None:
        with whole_file(out) as stream:
            stream.write(json.dumps(result, indent=1).encode() + b"\n")
        console.print(f"wrote {out}")
    return 0


def measure(operations: list[Operation], device: torch.device, seconds: float) -> dict[str, Any]:
    """Time operations and, before and after each, the reference; return all of it with the machine named."""
    reference: list[float] = []
    volume = np.random.default_rng(0).random((96, 96, 96))
    rows = []
    for operation in operations:
        reference += _times(lambda: scipy.ndimage.gaussian_filter(volume, 4.0), torch.device("cpu"), 0.1)
        rows.append(_time(operation, device, seconds))
    reference_ms = statistics.median(reference)
    synthesis = [row.mean_ms for row in rows if row.name.startswith("synthesis-")]
    return {
        "machine": machine(device),
        "reference": {"what": _REFERENCE, "median_ms": reference_ms},
        "synthesis_to_reference": statistics.mean(synthesis) / reference_ms if len(synthesis) == len(SIZE_CLASSES) else None,
        "operations": [asdict(row) for row in rows],
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Name everything that a figure depends on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__}
    named = {"device": _processor(), "cores": torch.get_num_threads(), "commit": _commit(), **versions}
    if device.type == "cuda":
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
        named |= {"device": torch.cuda.get_device_name(device), "driver": driver, "cuda": torch.version.cuda, "host": _processor()}
    return {**named, "date": datetime.now(timezone.utc).strftime("%Y-%m-%d")}


def _time(operation: Operation, device: torch.device, seconds: float) -> Timing:
    case = operation.make(device)
    spent = _times(case.run, device, seconds)
    source = torch.zeros(max(1, case.floor_bytes // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    floor = statistics.median(_times(lambda: target.copy_(source), device, 0.1))
    p90 = sorted(spent)[int(0.9 * (len(spent) - 1))]
    return Timing(operation.name, operation.shapes, statistics.mean(spent), statistics.median(spent), p90, floor)


def _times(run: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Milliseconds of each of at least five runs, after three to warm up."""
    for _ in range(3):
        run()
    spent: list[float] = []
    while len(spent) < 5 or sum(spent) < 1000 * seconds:
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(device)
            start.record()
            run()
            end.record()
            torch.cuda.synchronize(device)
            spent.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            run()
            spent.append(1000 * (time.perf_counter() - begin))
    return spent


def _tests_pass(operations: list[Operation], console: Console) -> bool:
    """Run the tests that stand beside the operations, where there is a checkout."""
    folder = _REPOSITORY / "tests"
    files = [folder / "kernels" / f"test_{operation.name}.py" for operation in operations if not operation.name.startswith("synthesis-")]
    files += [folder / "test_identity.py"] if len(files) < len(operations) else []
    if not folder.is_dir():
        console.print("[yellow]tests not run: they are in the repository, not in the installed package[/yellow]")
        return True
    passed = (
        subprocess.run([sys.executable, "-m", "pytest", "-q", "--no-header", *map(str, files)], cwd=_REPOSITORY, check=False).returncode
        == 0
    )
    if not passed:
        console.print("[red]nothing measured: the tests above must pass first[/red]")
    return passed


def _show(result: dict[str, Any], console: Console) -> None:
    console.print("  ".join(f"{key} {value}" for key, value in result["machine"].items()))
    table = Table("operation", "shapes", "mean ms", "median ms", "p90 ms", "floor ms", "× floor")
    for row in result["operations"]:
        figures = [row[key] for key in ("mean_ms", "median_ms", "p90_ms", "floor_ms")]
        table.add_row(row["name"], row["shapes"], *(f"{x:.3g}" for x in figures), f"{row['median_ms'] / row['floor_ms']:.1f}")
    console.print(table)
    reference, ratio = result["reference"], result["synthesis_to_reference"]
    console.print(f"reference: {reference['what']}: median {reference['median_ms']:.1f} ms")
    if ratio is not None:
        console.print(f"a patch, mean of the five size classes: [bold]{ratio:.2f} ×[/bold] the reference")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    commit = _output("git", "-C", str(_REPOSITORY), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(_REPOSITORY), "status", "--porcelain", "--untracked-files=no")
    return f"{commit or 'unknown'}{' with changes' if changed else ''}"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""

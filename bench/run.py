"""`gpu-synth bench`: the tests first, then one table, and one JSON file with the machine named."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from gpu_synth.bench.case import Operation, Setting
from gpu_synth.bench.machine import REPOSITORY, is_checkout
from gpu_synth.bench.measure import Result, measure
from gpu_synth.bench.registry import OPERATIONS
from gpu_synth.bench.report import as_text, show
from gpu_synth.files import check_folder_to_write, whole_file

WIDTH = 190  # what the widest table takes
STDERR = 2  # tests are no result: stdout is for figures


def bench(
    names: list[str] | None = None,
    device: str = "auto",
    full: bool | None = None,
    seconds: float | None = None,
    tests: bool = True,
    out: Path | None = None,
) -> Result | None:
    """Measure the kernels, the synthesis and what surrounds it; print a table.

    Args:
        names: Rows to measure, by name; all by default.
        device: "cpu", "cuda", or "auto" for a CUDA device where there is one.
        full: Every batch, patch and number of lesions, or a short set; by default full on CUDA, short on a CPU.
        seconds: Time spent on each row; by default 2 on a CPU, 0.3 on CUDA.
        tests: Run the operations' tests first; nothing is measured if they fail.
        out: JSON file to write the results to, after each row.

    Returns:
        What was measured; None where a test fails, so that nothing was.

    Raises:
        ValueError: A name is unknown or has no row on the device, or the device is not there.
    """
    where = _found(device)
    if out is not None:
        check_folder_to_write("out's folder", out.parent)
    on_cuda = where.type == "cuda"
    chosen = rows(names, where, on_cuda if full is None else full)
    console = Console()
    console = console if console.width >= WIDTH else Console(width=WIDTH)  # figures cut short are no figures
    if tests and not _tests_pass([operation for operation, _ in chosen], console):
        return None
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    with console.status("") as status:
        each = seconds if seconds is not None else 0.3 if on_cuda else 2.0
        result = measure(chosen, where, each, progress=status.update, keep=lambda so_far: _write(so_far, out))
    show(result, console)
    if out is not None:
        console.print(f"wrote {out}")
    return result


def _write(result: Result, out: Path | None) -> None:
    if out is not None:
        with whole_file(out) as stream:
            stream.write(as_text(result).encode())


def _found(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device must be 'auto', 'cpu' or a 'cuda' that is there, got {device!r}")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def rows(names: Sequence[str] | None, device: torch.device, full: bool) -> list[tuple[Operation, Setting]]:
    """The rows of the names, or of all of them; a name whose only rows are in the full set has those, if it is asked for."""
    known = [operation.name for operation in OPERATIONS]
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"names must be among {', '.join(known)}, got {', '.join(unknown)}")
    chosen = []
    for operation in OPERATIONS:
        if names and operation.name not in names:
            continue
        settings = operation.settings(device, full) or (operation.settings(device, True) if names else [])
        if names and not settings:
            raise ValueError(f"names must have rows on device {device.type!r}, got {operation.name}; it is measured on the other kind")
        chosen += [(operation, setting) for setting in settings]
    return chosen


def _tests_pass(operations: Sequence[Operation], console: Console) -> bool:
    """Run the operations' tests, where there is a checkout."""
    if not is_checkout():
        console.print("[yellow]tests not run: they are in the repository, not in the installed package[/yellow]")
        return True
    files = dict.fromkeys(str(REPOSITORY / "tests" / name) for operation in operations for name in operation.tests)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *files]
    passed = subprocess.run(command, cwd=REPOSITORY, check=False, stdout=STDERR).returncode == 0
    if not passed:
        console.print("[red]nothing measured: the tests above must pass first[/red]")
    return passed

"""The doctor's findings for people: tables of rich, or plain lines where that is what is missing."""

from collections.abc import Sequence
from typing import NamedTuple, TextIO

from gpu_synth.doctor.run import Findings

WIDTH = 120  # where nobody says how wide the output is, as in a pipe


class Block(NamedTuple):
    """A table: what stands above it, what above its columns, and its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(findings: Findings, stream: TextIO) -> None:
    """Print the findings."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except Exception:  # rich may be what is broken
        stream.write(plain(findings))
        return
    console = Console(file=stream)
    console = console if console.is_terminal else Console(file=stream, width=WIDTH)
    for block in blocks(findings):
        table = Table(*block.columns, title=block.title, title_justify="left")
        for row in block.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for line in verdict(findings):
        console.print(Text(line), soft_wrap=True)  # a command that is cut by lines cannot be copied


def plain(findings: Findings) -> str:
    """The findings without rich."""
    lines = []
    for block in blocks(findings):
        lines += [block.title, *("  " + "  ".join(row) for row in block.rows), ""]
    return "\n".join([*lines, *verdict(findings), ""])


def blocks(findings: Findings) -> list[Block]:
    """The tables, but for empty ones."""
    versions = {**findings.machine, **findings.cupy}
    devices = [
        (d.name, d.capability, d.driver, f"{d.free_gib:.1f} of {d.total_gib:.1f} GiB", "yes" if d.usable else "no")
        for d in findings.devices
    ]
    asked = [
        (p.name, p.wanted.removeprefix(p.name), p.version or "–", p.problem or (p.extra and f"optional, for [{p.extra}]"))
        for p in findings.packages
    ]
    tried = [
        (
            t.backend,
            t.device,
            t.preset,
            f"{t.milliseconds:.0f}",
            str(t.lesions),
            str(t.differing_vox),
            f"{t.apart_hu:.3f}",
            t.error or "fine",
        )
        for t in findings.self_test
    ]
    found = [
        Block("machine", ("what", "which"), [*versions.items(), *_kernels(findings)]),
        Block("devices", ("name", "capability", "driver", "free memory", "torch can use it"), devices),
        Block("packages", ("name", "asked for", "installed", ""), asked),
        Block(
            f"self-test: tumours in two phantoms; rows must agree with their preset's first in {findings.tolerance}",
            ("backend", "device", "preset", "ms", "lesions", "voxels differ", "HU apart", ""),
            tried,
        ),
    ]
    return [block for block in found if block.rows]


def _kernels(findings: Findings) -> list[tuple[str, str]]:
    """What became of the kernels, in a line or two."""
    devices = [] if findings.devices else [("devices", "no GPU: everything runs on the CPU")]
    if not findings.kernels:
        return [*devices, ("kernels", f"not compiled: {findings.not_compiled or 'see below'}")]
    fresh = [kernel for kernel in findings.kernels if not kernel.cached and not kernel.error]
    broken = [kernel.family for kernel in findings.kernels if kernel.error]
    cached = len(findings.kernels) - len(fresh) - len(broken)
    said = f"{cached} families from the cache, {len(fresh)} compiled in {sum(kernel.seconds for kernel in fresh):.1f} s"
    return [*devices, ("kernels", said + (f", {len(broken)} not: {', '.join(broken)}" if broken else ""))]


def verdict(findings: Findings) -> list[str]:
    """What is broken, what is missing, and the end of it."""
    serious = [problem for problem in findings.problems if problem.serious]
    other = [problem for problem in findings.problems if not problem.serious]
    lines = []
    for mark, problems in (("does not work: ", serious), ("", other)):
        for problem in problems:
            lines += [f"{mark}{problem.what}", *([f"    {problem.mend}"] if problem.mend else [])]
    return [*lines, "healthy" if findings.healthy else f"not healthy: {len(serious)} of what is there does not work"]

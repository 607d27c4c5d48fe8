"""What the compiler says of each kernel: `python -m gpu_synth.bench.resources`, a Markdown table; needs nvcc and no GPU."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu_synth.kernels import _launch

ARCHITECTURES = (80, 90, 100)
_USED = re.compile(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers(?:.*?(\d+) bytes smem)?", re.DOTALL)


def report(source: Path, architecture: int) -> dict[str, tuple[int, int, int]]:
    """Registers, shared bytes and spilled bytes of each kernel of a source."""
    with tempfile.TemporaryDirectory() as folder:
        command = (
            "nvcc",
            "--cubin",
            f"-arch=sm_{architecture}",
            *_launch.FLAGS,
            "-ftz=true",
            "-Xptxas",
            "-v",
            "-o",
            f"{folder}/out",
            str(source),
        )
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    parts = re.split(r"(?=ptxas info\s+: Compiling)", said)
    found = [match for part in parts if (match := _USED.search(part))]
    return {match[1]: (int(match[3]), int(match[4] or 0), int(match[2])) for match in found}


def table() -> str:
    """One row a kernel."""
    lines = [
        "| kernel | " + " | ".join(f"sm_{number}" for number in ARCHITECTURES) + " | shared bytes | spilled bytes |",
        "|---|---|---|---|---|---|",
    ]
    for family, source in _launch.sources().items():
        reports = [report(source, architecture) for architecture in ARCHITECTURES]
        for kernel in reports[0]:
            registers = " | ".join(str(one[kernel][0]) for one in reports)
            spilled = max(one[kernel][2] for one in reports)
            lines.append(f"| {family}: `{kernel}` | {registers} | {max(one[kernel][1] for one in reports)} | {spilled} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")

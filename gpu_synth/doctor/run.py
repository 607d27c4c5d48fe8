"""`gpu-synth doctor`: what is installed, which devices there are, whether kernels compile, what is missing, and which command mends it.

Nothing but the standard library is imported at the top, and every part is examined by itself: an installation that is half broken, which
is when one asks, makes findings, not a traceback.
"""

import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_synth import __version__
from gpu_synth.doctor.installed import Package, cupy_packages, packages

if TYPE_CHECKING:
    from gpu_synth.doctor.self_test import Tried
    from gpu_synth.kernels._compiler import Compiled

GIB = 2**30
_SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.free,memory.total", "--format=csv,noheader,nounits")
TORCH = "pip install --force-reinstall torch"


class Problem(NamedTuple):
    """What does not work, or is not there.

    Attributes:
        what: In words.
        mend: The command that mends it, or what else does; empty where nobody knows.
        serious: Whether something is broken, rather than optional and not there.
    """

    what: str
    mend: str
    serious: bool = True


class Device(NamedTuple):
    """A GPU; memory in GiB."""

    name: str
    capability: str
    driver: str
    free_gib: float
    total_gib: float
    usable: bool


@dataclass
class Findings:
    """All that was found.

    Attributes:
        machine: What the figures of other machines may differ by.
        packages: What is asked for, and what is there.
        devices: GPUs, those that torch cannot use included.
        cupy: Versions of CuPy, its CUDA and its compiler; empty where it cannot be imported.
        kernels: Each family, compiled for the first device; empty where nothing can be launched.
        not_compiled: Why the kernels were not compiled.
        self_test: Each preset on each backend.
        tolerance: How far a backend may be from the first.
        problems: What is broken or missing.
    """

    machine: dict[str, str] = field(default_factory=dict)
    packages: list[Package] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    cupy: dict[str, str] = field(default_factory=dict)
    kernels: list["Compiled"] = field(default_factory=list)
    not_compiled: str = ""
    self_test: list["Tried"] = field(default_factory=list)
    tolerance: str = ""
    problems: list[Problem] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether all that is there works."""
        return not any(problem.serious for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        named = {name: [row._asdict() for row in rows] if isinstance(rows, list) else rows for name, rows in vars(self).items()}
        for tried in named["self_test"]:
            tried["apart_hu"] = tried["apart_hu"] if isfinite(tried["apart_hu"]) else None  # NaN is no JSON
        return {**named, "healthy": self.healthy}


def examine() -> Findings:
    """Examine one part after another; one that cannot be examined is a problem of its own."""
    findings = Findings()
    parts: dict[str, Callable[[Findings], None]] = {
        "machine": _machine,
        "packages": _packages,
        "devices": _devices,
        "CuPy": _cupy,
        "kernels": _kernels,
        "self-test": _self_test,
    }
    for name, part in parts.items():
        try:
            part(findings)
        except Exception as error:  # whatever a broken library raises
            why = " ".join(f"{type(error).__name__}: {error}".split())
            findings.problems.append(Problem(f"{name} cannot be examined: {why}", ""))
    return findings


def _machine(findings: Findings) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings.machine |= {"gpu-synth": __version__, "Python": platform.python_version(), "system": platform.platform(), "cores": str(cores)}
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_AVPHYS_PAGES"} <= os.sysconf_names.keys():
        total, free = (os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") / GIB for pages in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        findings.machine["memory"] = f"{total:.1f} GiB, {free:.1f} GiB of it unused"


def _packages(findings: Findings) -> None:
    try:
        findings.packages = packages()
    except PackageNotFoundError:
        findings.problems.append(Problem("gpu-synth runs without being installed: what it asks for is not known", "pip install .", False))
    for package in findings.packages:
        if package.problem:
            how = "--force-reinstall " if package.problem.startswith("cannot") else "--upgrade " if package.version else ""
            findings.problems.append(Problem(f"{package.name} {package.problem}", f'pip install {how}"{package.wanted}"'))
    for extra in dict.fromkeys(package.extra for package in findings.packages if package.extra):
        lacking = [package.name for package in findings.packages if package.extra == extra and not package.version]
        if lacking:
            findings.problems.append(Problem(f"optional: {', '.join(lacking)}", f'pip install "gpu-synth[{extra}]"', False))


def _devices(findings: Findings) -> None:
    smi = [row.split(", ") for row in _output(*_SMI).splitlines() if row.count(", ") == 4]
    try:
        import torch
    except Exception:  # said of the packages
        findings.devices = [Device(name, at, driver, _gib(free), _gib(total), False) for name, at, driver, free, total in smi]
        return
    findings.machine["torch's CUDA"] = torch.version.cuda or "none: built for the CPU"
    if not torch.cuda.is_available():
        findings.devices = [Device(name, at, driver, _gib(free), _gib(total), False) for name, at, driver, free, total in smi]
        if smi:
            findings.problems.append(_unusable(torch))
        return
    for number in range(torch.cuda.device_count()):
        known, (free, total) = torch.cuda.get_device_properties(number), torch.cuda.mem_get_info(number)
        driver = smi[0][2] if smi else "unknown"
        findings.devices.append(Device(known.name, f"{known.major}.{known.minor}", driver, free / GIB, total / GIB, usable=True))


def _unusable(torch: Any) -> Problem:
    """Why torch cannot use a GPU that the driver shows."""
    offered = re.search(r"CUDA Version: (\d+)", _output("nvidia-smi"))
    if torch.version.cuda is None:
        return Problem("a GPU is there, and torch is built for the CPU", TORCH)
    if offered and int(offered[1]) < int(torch.version.cuda.split(".")[0]):
        what = f"torch is built for CUDA {torch.version.cuda}, and the driver offers {offered[1]}"
        return Problem(what, f"a newer NVIDIA driver; or torch for CUDA {offered[1]}, by the command of pytorch.org/get-started/locally")
    try:
        torch.cuda.init()
        why = "it says no reason"
    except Exception as error:
        why = " ".join(str(error).split())
    return Problem(f"a GPU is there, and torch cannot use it: {why}", "restart the machine, or the container with its GPUs")


def _cupy(findings: Findings) -> None:
    from gpu_synth.kernels import _compiler, _launch

    usable = any(device.usable for device in findings.devices)
    installed = cupy_packages()
    if len(installed) > 1:
        what = f"{len(installed)} packages are CuPy and overwrite each other: {', '.join(installed)}"
        mend = f"pip uninstall --yes {' '.join(installed)} && pip install {_launch.extra()}"
        findings.problems.append(Problem(what, mend, serious=usable))
    if installed:
        try:
            findings.cupy = _compiler.cupy_versions()
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            mend = _launch.other_folder(error) or f"pip install --force-reinstall {_launch.extra()}"
            findings.problems.append(Problem(f"CuPy cannot be used ({why})", mend, usable))
            return
    lack = _launch.lack()
    findings.not_compiled = lack.why if lack else ""
    if lack and usable:  # optional as long as it is not there; once it is, it must work
        what = "optional: CuPy, for the CUDA kernels" if not installed else lack.why
        findings.problems.append(Problem(what, lack.command, serious=bool(installed)))


def _kernels(findings: Findings) -> None:
    from gpu_synth.kernels import _compiler, _launch

    if (lack := _launch.lack()) is not None:
        findings.not_compiled = findings.not_compiled or lack.why
        return
    findings.kernels = _compiler.compile_families(0)
    broken = [kernel for kernel in findings.kernels if kernel.error]
    if broken:
        names, why = ", ".join(kernel.family for kernel in broken), " ".join(broken[0].error.split())[:300]
        findings.problems.append(Problem(f"kernels do not compile: {names}; {why}", f"pip install --force-reinstall {_launch.extra()}"))
    folder = _compiler.cache_folder()
    known = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(known, os.W_OK):
        what = f"compiled kernels cannot be kept in {folder}, so that every start compiles them anew"
        findings.problems.append(Problem(what, "export CUPY_CACHE_DIR=/a/folder/to/write", False))


def _self_test(findings: Findings) -> None:
    from gpu_synth.doctor.self_test import TOLERANCE, backends, self_test

    findings.tolerance = TOLERANCE
    findings.self_test = self_test(backends())
    for tried in findings.self_test:
        if tried.error:
            findings.problems.append(Problem(f"preset {tried.preset} on {tried.backend}, {tried.device}: {tried.error}", ""))


def _gib(mib: str) -> float:
    return float(mib) / 1024 if mib.replace(".", "").isdecimal() else 0.0


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""

"""Every CUDA source compiles for the GPUs it is meant for, with the flags that CuPy will use, and fits into registers."""

import re
import shutil
import subprocess
from pathlib import Path

import nvrtc
import pytest
from emulator import KERNELS, kernels_of

from gpu_synth.kernels import _launch

SOURCES = sorted(KERNELS.glob("*.cu"))
HEADERS = sorted(KERNELS.glob("*.cuh"))
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")  # A100, H100, B200
CUPY_ADDS = ("-ftz=true", "--device-as-default-execution-space")  # of itself, cupy/cuda/compiler.py of CuPy 14
MOST_REGISTERS = 128

RESOURCES = re.compile(
    r"Compiling entry function '(\w+)' for '(sm_\d+)'\n.*\n"
    r"[^\d\n]*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n.*Used (\d+) registers"
)
FLOAT_ATOMIC = re.compile(r"^.*\b(?:atom|red)\.[\w.:]*\.(?:f16|f16x2|bf16|bf16x2|f32|f64)\b.*$", re.MULTILINE)
WARP_PTX = re.compile(r"^.*\b(?:shfl|vote|match|redux|activemask|elect|bar\.warp)\..*$", re.MULTILINE)
FORBIDDEN = {
    "a warp intrinsic": r"__(?:shfl|ballot|any_sync|all_sync|activemask|syncwarp|match_|reduce_\w+_sync)|\bwarpSize\b|cooperative_groups",
    "fast math": r"use_fast_math|\b__(?:expf|exp10f|logf|log2f|log10f|sinf|cosf|sincosf|tanf|powf|fdividef|frsqrt_rn)\b",
    "a header that NVRTC does not have": r"#\s*include\s*<",
}

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the path")
needs_nvrtc = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def nvcc(source: Path, binary: Path) -> str:
    """Compile for all architectures, warnings being errors; return what the assembler says of resources."""
    targets = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in ARCHITECTURES]
    command = [
        "nvcc",
        "-fatbin",
        *_launch.FLAGS,
        "-ftz=true",
        "-Werror=all-warnings",
        "-Xptxas=-v",
        *targets,
        str(source),
        "-o",
        str(binary),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def as_cupy(text: str, name: str, architecture: str) -> nvrtc.Program:
    """Compile as CuPy does, and report resources besides."""
    options = (*_launch.FLAGS, *CUPY_ADDS, f"-arch={architecture}", "--ptxas-options=-v")
    program = nvrtc.compile_program(text, name, options)
    assert program.compiled, program.log
    assert "warning" not in program.log, program.log
    return program


def wasteful(report: str) -> list[str]:
    """Kernels that keep values in memory for want of registers, or keep others from running."""
    return [
        f"{kernel} for {architecture}: stack {stack}, spill stores {stores}, spill loads {loads} bytes, {registers} registers"
        for kernel, architecture, stack, stores, loads, registers in RESOURCES.findall(report)
        if any(map(int, (stack, stores, loads))) or int(registers) > MOST_REGISTERS
    ]


def reported(report: str) -> set[tuple[str, str]]:
    return {(kernel, architecture) for kernel, architecture, *_ in RESOURCES.findall(report)}


@needs_nvcc
@each_source
def test_nvcc_compiles_it_without_spills(source, tmp_path):
    report = nvcc(source, tmp_path / "out.fatbin")
    assert reported(report) == {(kernel, architecture) for kernel in kernels_of(source) for architecture in ARCHITECTURES}
    assert wasteful(report) == []


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@each_source
def test_nvrtc_compiles_what_cupy_hands_it_without_spills(source, architecture):
    program = as_cupy(_launch.source_text(source), source.name, architecture)
    assert reported(program.log) == {(kernel, architecture) for kernel in kernels_of(source)}
    assert wasteful(program.log) == []
    assert FLOAT_ATOMIC.findall(program.ptx) == []
    assert WARP_PTX.findall(program.ptx) == []


@each_source
def test_it_holds_kernels_that_are_named_so(source):
    assert kernels_of(source), "no __global__ function that returns void"
    assert len(kernels_of(source)) == source.read_text().count("__global__")
    assert [name for name in kernels_of(source) if not name.endswith("_kernel")] == []


@pytest.mark.parametrize("path", [*SOURCES, *HEADERS], ids=lambda path: path.name)
def test_it_keeps_to_what_every_backend_can_repeat(path):
    assert {what: found for what, pattern in FORBIDDEN.items() if (found := re.findall(pattern, path.read_text()))} == {}
    assert len(path.read_text().splitlines()) <= 250


def test_the_launcher_knows_every_source_and_asks_for_exact_arithmetic():
    assert {name: path.resolve() for name, path in _launch.sources().items()} == {path.stem: path.resolve() for path in SOURCES}
    assert "--fmad=false" in _launch.FLAGS
    assert not any("fast" in flag for flag in _launch.FLAGS)


# ---- the checks themselves --------------------------------------------------------------------------------------------------------------

SPILLING = (
    'extern "C" __global__ void spilling_kernel(int* out) { int all[64]; for (int i = 0; i < 64; ++i) all[out[i]] = i; *out = all[*out]; }'
)
FLOAT_SUM = 'extern "C" __global__ void sum_kernel(float* out) { atomicAdd(out, 1.0f); *out = __shfl_sync(0xFFFFFFFF, *out, 0); }'


@needs_nvcc
def test_nvcc_shows_a_kernel_that_spills(tmp_path):
    (tmp_path / "spilling.cu").write_text(SPILLING)
    assert len(wasteful(nvcc(tmp_path / "spilling.cu", tmp_path / "out.fatbin"))) == len(ARCHITECTURES)


@needs_nvrtc
def test_nvrtc_shows_a_kernel_that_spills_and_a_sum_that_depends_on_the_order():
    assert wasteful(as_cupy(SPILLING, "spilling.cu", "sm_90").log)
    program = as_cupy(FLOAT_SUM, "sum.cu", "sm_90")
    assert not wasteful(program.log)
    assert FLOAT_ATOMIC.findall(program.ptx)
    assert WARP_PTX.findall(program.ptx)

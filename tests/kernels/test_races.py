"""No kernel races, every barrier is needed; and the detector that says so finds what it should in small kernels, and nothing else."""

import mmap
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from emulator import KERNELS, CompilationError, Emulator, RaceError, kernels_of, races, run_watched

from gpu_synth.kernels import _launch


def test_no_kernel_races_and_every_barrier_is_needed():
    """Over the comparisons with the twins, without types that are written as others are and so wide that no two threads share a word."""
    folder = Path(__file__).parent
    cases = "forward and (float32-False or not (bfloat16 or float32 or float64 or int32 or int64))"
    others = [f"--ignore={folder / f'test_{name}.py'}" for name in ("families", "emulator", "compile", "races")]
    done, seen = run_watched("-m", "pytest", folder, "-q", "-p", "no:cacheprovider", "-k", cases, *others)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert seen.kernels == {(family, kernel) for family, source in _launch.sources().items() for kernel in kernels_of(source)}
    needed = {(barrier.file, barrier.line) for barrier in seen.barriers if barrier.needed}
    lines = [(path.name, number, line) for path in KERNELS.glob("*.cu*") for number, line in enumerate(path.read_text().splitlines(), 1)]
    barriers = {(file, number) for file, number, line in lines if "__syncthreads();" in line}
    assert len(barriers) > 50
    assert barriers == needed, f"{sorted(barriers - needed)} keep nothing apart: remove them, or add the case that needs them"


# ---- the detector on small kernels, of two blocks of 32 threads -------------------------------------------------------------------------

IN_BLOCK, ACROSS = "no barrier between", "blocks have no order"
# Body of a kernel; in which memory it races; the lines that meet; what does not order them.
RACES = {
    "no_barrier": ("tile[i] = 1.0f;\nout[at] = tile[31 - i];", "shared memory", {1, 2}, IN_BLOCK),
    "no_barrier_global": ("out[at] = 1.0f;\nout[64 + at] = out[at ^ 1];", "global memory, out", {1, 2}, IN_BLOCK),
    "next_turn": (
        "for (int turn = 0; turn < 2; ++turn) {\nif (i == 0) ends[0] = turn;\n__syncthreads();\ncount[at] += ends[0];\n}",
        "shared memory", {2, 4}, IN_BLOCK,
    ),
    "same_value": ("tile[0] = 1.0f;", "shared memory", {1}, IN_BLOCK),
    "same_value_global": ("if (i == 7) out[5] = 1.0f;", "global memory, out + 20 bytes", {1}, ACROSS),
    "read_elsewhere": (
        "if (at == 0) out[0] = 1.0f;\n__syncthreads();\nif (at == 40) out[at] = out[0];", "global memory, out + 0 bytes", {1, 3}, ACROSS
    ),
    "written_elsewhere": (
        "if (at == 0 || at == 39) out[99 + at] = out[0];\n__syncthreads();\nif (at == 40) out[at] = out[0], out[0] = 1.0f;",
        "global memory, out + 0 bytes", {1, 3}, ACROSS,
    ),
    "read_by_both": (
        "if (i == 1) out[at] = tile[0];\n__syncthreads();\nif (i < 2) out[at] = tile[0];\nif (i == 1) tile[0] = 1.0f;",
        "shared memory", {3, 4}, IN_BLOCK,
    ),
    "vector": (
        "if (i == 0) *(float4*)quads = make_float4(out[0], out[1], out[2], out[3]);\nif (i == 1) out[9 + b] = quads[3];",
        "shared memory", {1, 2}, IN_BLOCK,
    ),
    "overlap": ("if (i < 2) *(float3*)(tile + 2 * i) = make_float3(1.0f, 2.0f, 3.0f);", "shared memory", {1}, IN_BLOCK),
    "byte_of_word": (
        "if (at == 0) count[0] = 7;\nif (at == 1) ((unsigned char*)count)[2] = 1;", "global memory, count + 2 bytes", {1, 2}, IN_BLOCK
    ),
    "large": (
        "struct Row { float of[600]; };\nif (at == 0) *(Row*)out = *(const Row*)(out + 2048);\nif (at == 1) out[3000] = out[599];",
        "global memory, out + 2396 bytes", {2, 3}, IN_BLOCK,
    ),
    "atomic_then_read": (
        "if (at == 32) atomicAdd(count, 1);\nif (at == 33) out[0] = (float)*count;", "global memory, count + 0 bytes", {1, 2}, IN_BLOCK
    ),
    "write_then_atomic": (
        "if (at == 0) *count = 1;\nif (at == 40) atomicAdd(count, 1);", "global memory, count + 0 bytes", {1, 2}, ACROSS
    ),
    "cached_read": ("if (at == 0) out[0] = 1.0f;\nif (at == 40) out[at] = __ldg(out);", "global memory, out + 0 bytes", {1, 2}, ACROSS),
    "volatile_shared": ("*(volatile float*)tile = 1.0f;", "shared memory", {1}, IN_BLOCK),
    "volatile_then_read": (
        "if (at == 0) *(volatile int*)count = 1;\nif (at == 40) out[0] = (float)*count;", "global memory, count", {1, 2}, ACROSS
    ),
}  # fmt: skip
CLEAN = {
    "barrier": "tile[i] = 1.0f;\n__syncthreads();\nout[at] = tile[31 - i];",
    "vote": "tile[i] = 1.0f;\nif (__syncthreads_or(i)) out[at] = tile[31 - i];",
    "barrier_global": "out[at] = 1.0f;\n__syncthreads();\nout[64 + at] = out[at ^ 1];",
    "two_barriers": "for (int k = 0; k < 2; ++k) { if (i == 0) ends[0] = k;\n__syncthreads();\nout[at] += ends[0];\n__syncthreads(); }",
    "atomics": "atomicAdd(count, 1), atomicCAS(count, 5, 6), atomicMax(ends, i);\n__syncthreads();\natomicExch(count + 1, ends[0]);",
    "shared_of_each_block": "if (i == b) ends[0] = b;",
    "own_word": "out[at] = 1.0f;\n__syncthreads();\nout[at] += tile[i] + 1.0f;",
    "bytes_side_by_side": "if (at == 0) count[0] = 7;\n((unsigned char*)count)[8 + at] = 1, bytes[at] = 1;",
    "reads": "out[at] = *count + (float)bytes[0] + __ldg(out + 99) + (*(const float4*)(out + 96)).w;",
    "local": "float own[8] = {};\nput(own + i % 8);\nout[at] = own[n];",
    "not_reached": "if (i == 0) tile[0] = 1.0f;\nfloat s = 0.0f;\nfor (int k = 0; k < 3; ++k) if (i < n * k) s += *tile;\nout[at] = s;",
    "volatile": "volatile unsigned char* const mark = bytes;\nif (!mark[0]) mark[0] = 1;",
}  # fmt: skip
# For blocks of (2, 2, 2) threads, two by two.
PLACES = "if (threadIdx.x + 2 * threadIdx.y + 4 * threadIdx.z == 3 + blockIdx.x && blockIdx.y == 1) out[0] = 1.0f;"


class Samples:
    """The kernels above in one source, watched."""

    def __init__(self, folder: Path, order: str) -> None:
        bodies = {name: race[0] for name, race in RACES.items()} | CLEAN | {"places": PLACES}
        self.emulator, text = (
            Emulator(order, "races", folder),
            "__device__ __noinline__ void put(float* at) { *at = 1.0f; }\n",
        )
        self.first = {}
        for name, body in bodies.items():
            text += f'extern "C" __global__ void {name}_kernel(float* out, int* count, unsigned char* bytes, int n) {{\n'
            text += "[[maybe_unused]] const int i = threadIdx.x, b = blockIdx.x, at = 32 * b + i;"
            text += "__shared__ float tile[64]; __shared__ __align__(16) float quads[4]; __shared__ int ends[2];\n"
            self.first[name] = text.count("\n") + 1
            text += body + "\n}\n"
        (folder / "sample.cu").write_text(text)

    def run(self, name: str, grid=(2, 1, 1), block=(32, 1, 1), out: torch.Tensor | None = None) -> None:
        memory = torch.zeros(4096) if out is None else out, torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.uint8)
        self.emulator.run("sample", f"{name}_kernel", grid, block, [*(part.data_ptr() for part in memory), np.int32(0)])


@pytest.fixture(scope="module", params=["forward", "reversed"])
def samples(request, tmp_path_factory):
    return Samples(tmp_path_factory.mktemp("samples"), request.param)


@pytest.mark.parametrize(("name", "where", "lines", "order"), [(name, *race[1:]) for name, race in RACES.items()], ids=RACES)
def test_a_race_is_found_in_whatever_order_threads_run(samples, name, where, lines, order):
    with pytest.raises(RaceError) as raised:
        samples.run(name)
    head, *found = str(raised.value).split("\n  ")
    assert head == f"{name}_kernel of sample.cu: 1 race"
    assert found[0].startswith(where)
    assert found[0].endswith(order)
    assert {int(line) - samples.first[name] + 1 for line in re.findall(r"sample\.cu:(\d+)", found[0])} == lines


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_no_race_is_not_found(samples, name):
    samples.run(name)


def test_threads_and_blocks_are_named(samples):
    with pytest.raises(RaceError) as raised:
        samples.run("places", (2, 2, 1), (2, 2, 2))
    sides = re.findall(r"thread (\(.*?\)) of block (\(.*?\)) writes", str(raised.value))
    assert sorted(sides) == [("(0, 0, 1)", "(1, 1, 0)"), ("(1, 1, 0)", "(0, 1, 0)")]


def test_memory_is_watched_wherever_it_lies(samples):
    """Large tensors lie among the libraries, small ones below them."""
    for out in (torch.zeros(4096), torch.frombuffer(mmap.mmap(-1, 4 * 4096), dtype=torch.float32)):
        with pytest.raises(RaceError, match="out \\+ 20 bytes"):
            samples.run("same_value_global", out=out)


def test_a_launch_is_over_when_it_has_raced(samples):
    """What it wrote is no race with what the next one does."""
    for _ in range(2):
        with pytest.raises(RaceError, match="1 race\n"):
            samples.run("same_value_global")
        samples.run("reads")


# The third barrier keeps nothing apart that those before it do not; the last one, pass after pass, a read from a write three turns later.
BARRIERS = """extern "C" __global__ void sum_kernel(float* out, const float* in) {
    __shared__ float part[64];
    const int i = threadIdx.x;
    part[i] = in[i];
    __syncthreads();  // first
    for (int half = 32; half > 0; half /= 2) {
        if (i < half) part[i] += part[i + half];
        __syncthreads();  // inner
    }
    __syncthreads();  // idle
    out[i] = part[0];
    for (int turn = 0; turn < 5; ++turn) {
        if (turn < 4 && i == (turn == 1)) out[i] += part[32];
        if (turn == 4 && i == 0) part[32] = 1.0f;
        __syncthreads();  // slow
    }
}
"""
LINES = {name: BARRIERS[: BARRIERS.index("// " + name)].count("\n") + 1 for name in ("first", "inner", "idle", "slow")}


@pytest.mark.parametrize("name", [None, *LINES])
def test_a_barrier_is_needed_where_its_removal_is_a_race(name, tmp_path):
    (tmp_path / "sum.cu").write_text(BARRIERS.replace(f"__syncthreads();  // {name}", ""))
    emulator, out, values = Emulator(watch="races", folder=tmp_path), torch.zeros(64), torch.arange(64.0)
    arguments = [out.data_ptr(), values.data_ptr()]
    if name not in (None, "idle"):
        with pytest.raises(RaceError, match=r"no barrier between"):
            emulator.run("sum", "sum_kernel", (1, 1, 1), (64, 1, 1), arguments)
        return
    emulator.run("sum", "sum_kernel", (1, 1, 1), (64, 1, 1), arguments)
    needed = {barrier.line for barrier in races.barriers(emulator._libraries["sum"]) if barrier.needed}
    assert needed == {line for which, line in LINES.items() if which != "idle"}
    assert out[2:].tolist() == [63 * 32] * 62


def test_what_the_detector_would_not_see_does_not_compile(tmp_path):
    (tmp_path / "sample.cu").write_text('extern "C" __global__ void sample_kernel(float* out) { memset(out, 0, 4); }')
    with pytest.raises(CompilationError, match="poisoned"):
        Emulator(folder=tmp_path).run("sample", "sample_kernel", (1, 1, 1), (1, 1, 1), [torch.zeros(1).data_ptr()])

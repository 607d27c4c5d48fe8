"""The emulator on small kernels made for it: it computes what a GPU computes, and what would be wrong there shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from emulator import CompilationError, Emulator, LaunchError, run_sanitized

ORDERS = ("forward", "reversed")
ONE = (1, 1, 1)


@pytest.fixture
def emulate(tmp_path):
    """Write a source and get what runs it."""

    def build(source: str, order: str = "forward", **options) -> Emulator:
        (tmp_path / "sample.cu").write_text(source)
        return Emulator(order, folder=tmp_path, **options)

    return build


def kernel(parameters: str, body: str, bounds: str = "") -> str:
    return f'extern "C" __global__ void {bounds} sample_kernel({parameters}) {{\n{body}\n}}\n'


def launch(emulator: Emulator, *arguments, grid=ONE, block=ONE) -> None:
    values = [argument.data_ptr() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
    emulator.run("sample", "sample_kernel", grid, block, values)


# ---- what a kernel sees -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_arguments_and_indices_arrive(emulate, order):
    source = kernel(
        "long long* out, const float* in, int i, long long l, unsigned u, float f",
        """const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
        const int z = blockIdx.z * blockDim.z + threadIdx.z;
        const int width = gridDim.x * blockDim.x, height = gridDim.y * blockDim.y;
        out[(z * height + y) * width + x] = x + 10 * y + 100 * z + i + l + u + (long long)(f * in[0]);""",
    )
    out, given = torch.full((10, 3, 4), -1), torch.tensor([2.0])
    arguments = (np.int32(-1000), np.int64(2**40), np.uint32(2**32 - 1), np.float32(1.5))
    launch(emulate(source, order), out, given, *arguments, grid=(2, 3, 5), block=(2, 1, 2))
    z, y, x = torch.meshgrid(torch.arange(10), torch.arange(3), torch.arange(4), indexing="ij")
    assert torch.equal(out, x + 10 * y + 100 * z - 1000 + 2**40 + 2**32 - 1 + 3)


def test_defines_make_variants(emulate):
    source = "#ifndef T\n#define T short\n#endif\n" + kernel("int* out", "*out = sizeof(T);")
    out = torch.zeros(1, dtype=torch.int32)
    for defines, size in (((), 2), ((("T", "double"),), 8)):
        launch(emulate(source, defines=defines), out)
        assert out.item() == size


@pytest.mark.parametrize("order", ORDERS)
def test_integer_atomics_add_up(emulate, order):
    source = kernel(
        "int* sum, unsigned* bits, long long* most, unsigned long long* old",
        """const int i = blockIdx.x * blockDim.x + threadIdx.x;
        atomicAdd(sum, i), atomicOr(bits, 1u << i % 32), atomicMax(most, (long long)i << 33);
        if (atomicCAS(sum + 1, 0, 7) == 0) atomicExch(old, 5ull), atomicMin(sum + 2, -3);""",
    )
    total, bits = torch.zeros(3, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    most, old = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    launch(emulate(source, order), total, bits, most, old, grid=(3, 1, 1), block=(32, 1, 1))
    assert total.tolist() == [96 * 95 // 2, 7, -3]
    assert (bits.item(), most.item(), old.item()) == (-1, 95 << 33, 5)


def test_conversions_saturate_as_the_ptx_manual_says(emulate):
    source = kernel(
        "long long* out, const float* in",
        "const float x = in[threadIdx.x]; long long* to = out + 4 * threadIdx.x;"
        "to[0] = __float2int_rn(x), to[1] = __float2int_rd(x), to[2] = __double2ll_rn(x), to[3] = __double2int_rn(x);",
    )
    given, low, high = torch.tensor([2.5, -2.5, 3e9, -1e30, torch.nan]), -(2**31), 2**31 - 1
    out = torch.zeros(5, 4).long()
    launch(emulate(source), out, given, block=(5, 1, 1))
    assert out.tolist() == [[2, 2, 2, 2], [-2, -3, -2, -2], [high, high, 3 * 10**9, high], [low, low, -(2**63), low], [0, 0, -(2**63), low]]


def test_sine_and_cosine_of_multiples_of_pi(emulate):
    source = kernel("double* out, const double* in", "sincospi(in[threadIdx.x], out + 2 * threadIdx.x, out + 2 * threadIdx.x + 1);")
    given = torch.cat([torch.linspace(-4, 4, 101, dtype=torch.float64), torch.tensor([0.5, 1.0, 1e6 + 0.25], dtype=torch.float64)])
    out = torch.zeros(104, 2, dtype=torch.float64)
    launch(emulate(source), out, given, block=(104, 1, 1))
    angle = torch.remainder(given, 2.0) * torch.pi
    torch.testing.assert_close(out, torch.stack([angle.sin(), angle.cos()], 1), rtol=0, atol=2e-15)  # π rounded, times up to 2π
    assert out[[101, 102]].tolist() == [[1.0, 0.0], [0.0, -1.0]]


# ---- barriers and shared memory ---------------------------------------------------------------------------------------------------------

# Each block of 64 adds up its values in a tree.
SUM = kernel(
    "int* out, const int* in",
    """__shared__ int part[64];
    const int i = threadIdx.y * 8 + threadIdx.x;
    part[i] = in[64 * blockIdx.x + i];
    __syncthreads();
    for (int half = 32; half > 0; half /= 2) {
        if (i < half) part[i] += part[i + half];
        __syncthreads();  // inner
    }
    if (i == 0) out[blockIdx.x] = part[0];""",
)
VALUES = torch.arange(1, 193, dtype=torch.int32).reshape(3, 64)


def sums(emulator: Emulator) -> list[int]:
    out = torch.zeros(3, dtype=torch.int32)
    launch(emulator, out, VALUES, grid=(3, 1, 1), block=(8, 8, 1))
    return out.tolist()


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_hold(emulate, order):
    assert sums(emulate(SUM, order)) == VALUES.sum(1).tolist()


@pytest.mark.parametrize("barrier", ["    __syncthreads();\n", "__syncthreads();  // inner"], ids=["first", "inner"])
def test_a_missing_barrier_shows_in_one_of_both_orders(emulate, barrier):
    assert SUM.count(barrier) == 1
    source = SUM.replace(barrier, "")
    assert any(sums(emulate(source, order)) != VALUES.sum(1).tolist() for order in ORDERS)


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_that_vote(emulate, order):
    source = kernel(
        "int* out, int votes",
        """const int mine = (int)threadIdx.x < votes;
        const int any = __syncthreads_or(mine), all = __syncthreads_and(mine), count = __syncthreads_count(2 * mine);
        if (threadIdx.x == 5) out[0] = any, out[1] = all, out[2] = count;""",
    )
    out = torch.zeros(3, dtype=torch.int32)
    for votes, expected in ((0, [0, 0, 0]), (3, [1, 0, 3]), (40, [1, 1, 40])):
        launch(emulate(source, order), out, np.int32(votes), block=(40, 1, 1))
        assert out.tolist() == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x == 3) return; __syncthreads();", r"waits at .*sample\.cu:2, but 1 of 8 threads have ended"),
        ("__syncthreads(); if (threadIdx.x == 3) __syncthreads();", "but 7 of 8 threads have ended"),
        ("if (threadIdx.x < 3) __syncthreads();\nelse __syncthreads();\n", r"waits at .*sample\.cu:\d, but thread .* at .*sample\.cu:\d"),
    ],
    ids=["early-return", "late", "apart"],
)
def test_a_divergent_barrier_is_reported_and_the_next_launch_works(emulate, order, body, message):
    emulator = emulate(kernel("int* out, int wrong", f"if (wrong) {{ {body} return; }}\n__syncthreads(); out[threadIdx.x] = 1;"), order)
    out = torch.zeros(8, dtype=torch.int32)
    with pytest.raises(LaunchError, match=f"^sample_kernel of sample.cu: divergent barrier in block .*{message}"):
        launch(emulator, out, np.int32(1), block=(8, 1, 1))
    launch(emulator, out, np.int32(0), block=(8, 1, 1))
    assert out.tolist() == [1] * 8


def test_shared_memory_starts_as_nan_in_every_block(emulate):
    template = (
        "template <class T> __device__ __forceinline__ T untouched() { __shared__ T tile[9][3], more[2]; return tile[8][2] + more[0]; }\n"
    )
    body = "__shared__ float own[4]; out[blockIdx.x] = own[3], out[2 + blockIdx.x] = untouched<float>(), own[3] = 0.0f;"
    source = template + kernel("float* out", body)
    out = torch.zeros(4)
    launch(emulate(source), out, grid=(2, 1, 1))
    assert out.isnan().all()


# ---- what is refused --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "atomicAdd(out, 1.0f);",
        "out[0] = __shfl_sync(0xFFFFFFFF, out[0], 0);",
        "__syncwarp();",
        "out[0] = __expf(out[0]);",
        "threadIdx.x = 0;",
    ],
)
def test_what_no_kernel_may_use_does_not_compile(emulate, body):
    with pytest.raises(CompilationError, match=r"sample\.cu: g\+\+ refuses it"):
        launch(emulate(kernel("float* out", body)), torch.zeros(1))


PARAMETERS = "float* out, int n, long long m, float f"
FITTING = (torch.zeros(1), np.int32(1), np.int64(1), np.float32(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (FITTING[:3], "must have 4 arguments, got 3"),
        ((*FITTING, np.int32(0)), "must have 4 arguments, got 5"),
        ((FITTING[0], np.int64(1), *FITTING[2:]), "argument 1 must be an integer of 4 bytes, got an integer of 8"),
        ((*FITTING[:2], FITTING[0], FITTING[3]), "argument 2 must be an integer of 8 bytes, got a pointer of 8"),
        ((*FITTING[:3], np.int32(1)), "argument 3 must be a float of 4 bytes, got an integer of 4"),
        ((np.int64(0), *FITTING[1:]), "argument 0 must be a pointer of 8 bytes, got an integer of 8"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(emulate, arguments, message):
    with pytest.raises(TypeError, match=f"^sample_kernel of sample.cu: {message}"):
        launch(emulate(kernel(PARAMETERS, "out[0] = n + m + f;")), *arguments)


def test_blocks_that_do_not_fit_are_refused(emulate):
    emulator = emulate("constexpr int MOST = 32;\n" + kernel("float* out", "out[0] = 1.0f;", bounds="__launch_bounds__(MOST, 2)"))
    with pytest.raises(TypeError, match="must have at most 32 threads a block, got 64"):
        launch(emulator, torch.zeros(1), block=(64, 1, 1))
    with pytest.raises(TypeError, match="block must be three numbers from 1 to"):
        launch(emulator, torch.zeros(1), block=(1, 1, 65))
    with pytest.raises(TypeError, match="grid must be three numbers from 1 to"):
        launch(emulator, torch.zeros(1), grid=(0, 1, 1))
    with pytest.raises(TypeError, match=r"other_kernel of sample\.cu: there is no such kernel"):
        emulator.run("sample", "other_kernel", ONE, ONE, [0])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x == 2) *(volatile float*)nullptr = 1.0f;", "Segmentation fault"),
        ("out[0] = (float)(7 / (int)(threadIdx.x - 2));", "Floating point exception"),
        ("if (threadIdx.x == 2) __trap();", "Aborted"),
    ],
)
def test_a_crash_names_the_thread_and_the_next_launch_works(emulate, body, message):
    emulator = emulate(kernel("float* out, int wrong", f"if (wrong) {{ {body} }} out[threadIdx.x] = 1.0f;"))
    out = torch.zeros(4)
    with pytest.raises(LaunchError, match=rf"^sample_kernel of sample.cu: {message} in thread \(2, 0, 0\) of block \(0, 0, 0\)"):
        launch(emulator, out, np.int32(1), block=(4, 1, 1))
    launch(emulator, out, np.int32(0), block=(4, 1, 1))
    assert out.tolist() == [1.0] * 4


# ---- sanitizers -------------------------------------------------------------------------------------------------------------------------

# The kernel leaves its tensor, a shared array, the integers, or nothing, as asked; all after a barrier, so on a stack of the emulator's.
UNSAFE = "__device__ __noinline__ void put(float* at) { *at = 1.0f; }\n" + kernel(
    "float* out, int n, int wrong",
    """__shared__ float tile[16];
    tile[threadIdx.x + (wrong == 2)] = 1.0f;
    put(tile + threadIdx.x + (wrong == 4));
    __syncthreads();
    const int i = threadIdx.x, most = 2147483640 + i;
    if (i < n) out[i + (wrong == 1)] = tile[i] + (wrong == 3 ? (float)(most + i) : 0.0f);""",
)
SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, {tests!r})
from emulator import Emulator
out = torch.zeros(15)
for wrong in (0, int(sys.argv[1])):
    arguments = [out.data_ptr(), np.int32(15), np.int32(wrong)]
    Emulator(watch="memory", folder=Path({folder!r})).run("sample", "sample_kernel", (2, 1, 1), (16, 1, 1), arguments)
    print(out.sum().item())
"""


@pytest.fixture(scope="module")
def unsafe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unsafe")
    (folder / "sample.cu").write_text(UNSAFE)
    (folder / "script.py").write_text(SCRIPT.format(tests=str(Path(__file__).parents[1]), folder=str(folder)))
    return folder / "script.py"


@pytest.mark.parametrize(
    ("wrong", "report"),
    [(1, "heap-buffer-overflow"), (2, "out of bounds"), (3, "signed integer overflow"), (4, "global-buffer-overflow")],
    ids=["tensor", "shared", "integer", "shared-by-pointer"],
)
def test_sanitizers_stop_a_kernel_where_it_goes_wrong_and_not_before(unsafe, wrong, report):
    done = run_sanitized(unsafe, str(wrong))
    assert done.stdout == "15.0\n", done.stderr
    assert done.returncode != 0
    assert report in done.stderr
    assert "sample.cu" in done.stderr


def test_sanitized_kernels_need_their_process(emulate):
    with pytest.raises(RuntimeError, match="run_sanitized"):
        launch(emulate(kernel("float* out", "out[0] = 1.0f;"), watch="memory"), torch.zeros(1))

"""Every kernel family is whole, and a kernel that is a little wrong is caught by the comparison with its twin."""

import contextlib
import hashlib
import importlib
import inspect
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from emulator import KERNELS, Emulator, LaunchError, RaceError, emulated, kernels_of
from scans import ONE_MM, scans, uids

from gpu_synth import TumorSynthesizer
from gpu_synth.bench.registry import OPERATIONS
from gpu_synth.kernels import _launch, warp
from gpu_synth.kernels.cirrhosis import cirrhosis
from gpu_synth.kernels.crop import Packed, crop
from gpu_synth.kernels.growth import growth
from gpu_synth.kernels.tissue import tissue
from gpu_synth.organs import LIVER

FAMILIES = sorted(path.stem for path in KERNELS.glob("[a-z]*.py") if path.stem != "__init__")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_source_twin_test_and_bench_row(family):
    assert family in _launch.sources(), f"kernels/{family}.cu is missing"
    module = importlib.import_module(f"gpu_synth.kernels.{family}")
    own = [name for name, function in inspect.getmembers(module, inspect.isfunction) if function.__module__ == module.__name__]
    twins = {name.removesuffix("_").removesuffix("_torch") for name in own if re.fullmatch(r"[a-z]\w*_torch_?", name)}
    assert twins, f"kernels/{family}.py holds no twin: a function named *_torch"
    for name in twins:
        public = getattr(module, name, None) or getattr(module, f"{name}_", None)
        assert public is not None, f"kernels/{family}.py holds {name}_torch and no {name}"
        assert "backend" in inspect.signature(public).parameters, f"{name} takes no backend"
    test = Path(__file__).with_name(f"test_{family}.py")
    assert test.is_file(), f"{test.name} is missing"
    assert '"cupy"' in test.read_text(), f"{test.name} does not compare the kernels with the twin"
    assert family in {operation.name for operation in OPERATIONS}, f"bench/registry.py has no row {family!r}"


def test_every_source_belongs_to_a_family():
    assert sorted(_launch.sources()) == FAMILIES


def test_every_kernel_is_launched_by_its_name():
    launched = {tuple(found) for path in KERNELS.glob("*.py") for found in re.findall(r'launch\(\s*"(\w+)", "(\w+)"', path.read_text())}
    assert launched == {(family, kernel) for family, source in _launch.sources().items() for kernel in kernels_of(source)}


def test_sources_with_their_headers_written_in_have_each_once():
    for source in _launch.sources().values():
        text = _launch.source_text(source)
        assert "#include" not in text
        assert "#pragma once" not in text
        assert text.count("Words philox(") <= 1


MUTANTS = {
    "shape one off": ("shape.cu", "const int y = j - lesion.corner[1]", "const int y = j - lesion.corner[1] - 1"),
    "smoothing one off": ("smoothing.cuh", "weights[row * (long long)m + column + c]", "weights[row * (long long)m + column + c + 1]"),
    "density shift": ("texture.cu", "(int)(sum >> 15)", "(int)((sum + 16384) >> 15)"),
    "salt index": ("texture.cu", "* whole_k + cells.first_k + column;", "* whole_k + cells.first_k + column + 1;"),
    "placement rank": ("placement.cu", "if (value < end && value >= end - mine)", "if (value <= end && value > end - mine)"),
    "edge reach": ("edge.cu", "tiles.near(sample, i - reach_i, end_i + reach_i", "tiles.near(sample, i, end_i"),
    "weights": ("gaussian.cu", "turn * period - 2 - c", "turn * period - c"),
    "draw": ("plan.cu", "slot - before < number", "slot - before <= number"),
    "blend": ("blend.cu", "if (number[each]) write_label", "if (share[each]) write_label"),
    "tissue count": ("tissue.cu", "__float2int_rn(clamp_hu(value)) - HU_FIRST", "__float2int_rn(clamp_hu(value)) - HU_FIRST + 1"),
    "tissue neighbour": ("tissue.cu", "d = field[voxel + step_j]", "d = field[voxel + step_i]"),
    "tissue weights": ("tissue.cu", "int sum = 1 << (WEIGHT_BITS - 1), share = sum", "int sum = 0, share = sum"),
    "traits word": ("traits.cu", "W_RIM, W_TEXTURE,", "W_TEXTURE, W_RIM,"),
    "sites rank": ("sites.cu", "if (end[middle] > rank) high", "if (end[middle] >= rank) high"),
    "sites satellite": ("sites.cu", "least + to_uniform(words.word[0])", "least + to_uniform(words.word[1])"),
    "traits satellite": ("traits.cu", "slot - main_slots < satellites", "slot - main_slots <= satellites"),
    "lesion capsule": ("lesion.cu", "expf(-0.5f * across * across)", "expf(-across * across)"),
    "tissue excess": ("tissue.cu", "min(max(4 * size - 3 * all, 0), 2 * all)", "min(size, 2 * all)"),
    "lesion vessel": ("lesion.cu", "0.25f * foreign[at]", "0.5f * foreign[at]"),
    "lesion reach": ("lesion.cu", "* row[REACH] + beyond_mm(row)", "* 0.7f + beyond_mm(row)"),
    "philox": ("rng.cuh", "round < 10", "round < 9"),
    "warp limit": ("warp.cu", "load += other.push * (share * share)", "load += other.push * share"),
    "growth maturity": ("growth.cu", "until - delay[kind] - cell", "until + 1 - delay[kind] - cell"),
    "growth reach": ("growth.cu", "min(last / delay_4,", "min(last / delay_4 / 2,"),
    "growth stop": ("growth.cu", "late - (target - before < then - target)", "late - 1"),
    "growth level": ("growth.cu", "sum = planes[0] + planes[1]", "sum = planes[1] + planes[1]"),
    "growth nodes": ("automaton.cuh", "up_k ? part_k : period.k - part_k", "up_k ? period.k - part_k : part_k"),
    "nodules place": ("cirrhosis.cu", "block.j + place - TILE_I :", "block.j + place - TILE_I + 1 :"),
    "nodules reach": ("cirrhosis.cu", "block.around(FAR_IMAGE)", "block.around(0)"),
    "surface tap": ("surface.cuh", "(bits >> tap & 1ull)", "(bits >> (tap + 1) & 1ull)"),
    "crop shift": ("crop.cu", "a >> bits | b << (64 - bits)", "a >> bits | c << (64 - bits)"),
    "crop border": ("crop.cu", "k + EACH <= whole[2]", "k < whole[2]"),
    "interpolation neighbour": ("resample.cuh", "max(from + 1, 0)", "max(from + 2, 0)"),
}  # fmt: skip
BARRIERS = {
    "smoothing": ("smoothing.cuh", "__syncthreads();\n        const int columns"),
    "lines": ("smoothing.cuh", "__syncthreads();\n#pragma unroll 8"),
    "placement": ("placement.cu", "ends[thread] += add;\n            __syncthreads();"),
    "tissue": ("tissue.cu", "    }\n    __syncthreads();\n    counts +="),
    "traits": ("traits.cu", "- SCAN_WORDS));\n    __syncthreads();"),
    "sites": ("sites.cu", "&first, thread);\n        }\n        __syncthreads();"),
    "lesion": ("lesion.cu", "+ item];\n        __syncthreads();"),
    "growth": ("growth.cu", ">> 4);\n    }\n    __syncthreads();"),
    "medians": ("resample.cuh", "WIDE_I);\n        __syncthreads();"),
    "nodules": ("cirrhosis.cu", "__syncthreads();\n        float value"),
    "surface": ("surface.cuh", "(unsigned short)sum;\n    }\n    __syncthreads();"),
}  # fmt: skip


def synthesised(folder, order, monkeypatch, watched=()):
    """Digest of everything that comes of two samples, or None where the emulator itself objects; or how a watched family races."""
    watch, plain = Emulator(order, "races", folder), emulated(monkeypatch, order, folder)
    monkeypatch.setattr(_launch, "RUNNER", lambda family, *launch: (watch if family in watched else plain).run(family, *launch))
    image, label = scans(2, (41, 36, 40))
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy", class_prob=(0.5, 0.5, 0.0, 0.0, 0.0))
    try:
        plan = synth.plan(image, label, ONE_MM, uids(2))
        out = synth.render(image, label, plan)
        bright = image[:, 0] + 60 * (torch.arange(40) % 20 < 3)  # vessels of a sort
        known = tissue(bright, label[:, 0], 1, ONE_MM, backend="cupy")
        strength = torch.full(plan.active.shape, 40.0)
        lesions = plan.centre_vox, plan.shapes_vox()[0].amax(-1), strength, plan.active
        moved = warp.warp(image[:, 0], label[:, 0], *lesions, 1, ONE_MM, backend="cupy")
        kinds = [replace(kind, prob=0.4 if kind.name == "encapsulated" else 0.1) for kind in LIVER.kinds]
        full = TumorSynthesizer(
            "liver", prob=1.0, backend="cupy", count=(6, 6), kinds=kinds, satellite_prob=1.0, satellites=(1, 2), cirrhosis_prob=1.0
        )
        spread = torch.tensor([[[12.0, 18.0, 20.0], [30.0, 18.0, 21.0]]]).expand(2, 2, 3), torch.full((2, 2), 5.0), torch.ones(2, 2).bool()
        grown = growth(bright, label[:, 0], None, *spread, *known[:2], 1, ONE_MM, 60, 0, uids(2), backend="cupy")
        diseased = cirrhosis(image[:, 0], label[:, 0], *torch.tensor([[0.5, 1.0], [8.0, 8.0]]), 1, ONE_MM, 0, uids(2), backend="cupy")
        volumes = Packed(
            bright.short().flatten(), label.flatten(), torch.tensor([0, bright[0].numel()]), torch.tensor([bright.shape[1:]] * 2).int()
        )
        cut = crop(volumes, torch.tensor([[0, 3, -2, 5], [1, 9, 9, 14]]), (9, 8, 32), "cupy")
        lesion_plan = full.plan(bright[:, None], label, ONE_MM, uids(2))
        painted = full.render(bright[:, None], label, lesion_plan)
    except LaunchError:
        return None
    except RaceError as error:
        return str(error)
    lesion_model = (painted.image, painted.label, *lesion_plan.tensors().values())
    made = (out.image, out.label, out.instances, *plan.tensors().values(), *known, *moved, *grown, *diseased, *cut, *lesion_model)
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in made)).hexdigest()


def apart(folder, order, monkeypatch, watched=()):
    """The same in a process of its own, as a mutant may write where it should not; None where that one dies."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(write, (synthesised(folder, order, monkeypatch, watched) or "").encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as said:
        return said.read() or None


@pytest.fixture(scope="module")
def expected():
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = synthesised(KERNELS, "forward", monkeypatch)
    assert made is not None
    return made


def test_kernels_make_the_same_in_either_order_and_in_a_process_of_their_own(expected, monkeypatch):
    assert apart(KERNELS, "reversed", monkeypatch) == apart(KERNELS, "forward", monkeypatch) == expected


def mutated(folder, file, right, wrong):
    """Copy the sources with one place in them changed."""
    for path in (*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")):
        shutil.copy(path, folder)
    text = (folder / file).read_text()
    assert text.count(right) == 1
    (folder / file).write_text(text.replace(right, wrong))


@pytest.mark.parametrize(("file", "right", "wrong"), MUTANTS.values(), ids=MUTANTS)
def test_a_mutated_kernel_is_caught(file, right, wrong, expected, tmp_path, monkeypatch):
    """One index off: in one order of threads at least, something differs from the kernels as they are."""
    mutated(tmp_path, file, right, wrong)
    for order in ("forward", "reversed"):
        if apart(tmp_path, order, monkeypatch) != expected:
            return
    pytest.fail("the mutant made the same tumours")


@pytest.mark.parametrize(("file", "around"), BARRIERS.values(), ids=BARRIERS)
def test_a_missing_barrier_is_a_race(file, around, tmp_path, monkeypatch):
    mutated(tmp_path, file, around, around.replace("__syncthreads();", ""))
    families = [family for family, source in _launch.sources().items() if around in _launch.source_text(source)]
    said = apart(tmp_path, "forward", monkeypatch, families) or ""
    assert re.search(rf"^\w+_kernel of \w+\.cu: \d+ races?\n  shared memory: .* at {file}:\d+", said), said

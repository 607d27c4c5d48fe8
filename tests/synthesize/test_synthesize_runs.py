"""`gpu-synth synthesize` in several real processes, and killed at any moment: the same files as in one run, byte for byte."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from ct_files import ct, write
from made_volumes import SMALL, files, scans

from gpu_synth.synthesize.run import synthesize
from gpu_synth.synthesize.volume import FOLDERS, read_record

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(folder, out, *more):
    options = ["--images", f"{folder}/images", "--labels", f"{folder}/labels", "--out", f"{folder}/{out}", "--variants", "2"]
    overrides = [f"--overrides.size_prob={list(SMALL['size_prob'])}"]
    return [sys.executable, "-m", "gpu_synth.cli", "synthesize", *options, *overrides, *more]


def finished(commands):
    """Run commands at once; their output."""
    running = [
        subprocess.Popen(argv, env={**ENVIRONMENT, **env}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for argv, env in commands
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return said


def test_two_ranks_and_one_write_the_same_files(tmp_path):
    scans(tmp_path, "a", "b", "c")
    finished([(command(tmp_path, "one"), {})])
    want = files(tmp_path / "one")
    assert len(want) == 6 * 5 + 6
    torchrun = [{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)} for rank in range(2)]
    said = finished([(command(tmp_path, "torchrun"), env) for env in torchrun])
    assert [out.split(":")[0] for out in said] == [f"rank {rank} of 2 (torchrun), of 6 volumes" for rank in range(2)]
    assert all("3 volumes in" in out for out in said), "each has its half"
    assert any("data card: " in out for out in said)
    assert files(tmp_path / "torchrun") == want
    finished([(command(tmp_path, "options", "--rank", "1", "--world_size", "2"), {})])
    half = files(tmp_path / "options")
    assert len(half) == 3 * 5, "half of the volumes, and no card yet"
    assert all(want[name] == content for name, content in half.items())
    finished([(command(tmp_path, "options"), {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"})])
    assert files(tmp_path / "options") == want


@pytest.mark.parametrize("preset", ["liver", "liver-hu2022"])
def test_the_number_of_threads_does_not_matter(tmp_path, preset):
    scans(tmp_path, "a")
    write(tmp_path / "images" / "a.nii.gz", ct().astype(np.float32))  # nothing is rounded away
    threads = torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            where = {folder: f"{tmp_path}/{folder}" for folder in FOLDERS[:2]}
            assert synthesize(out=str(tmp_path / str(n)), **where, preset=preset).made == ("a_v0",)
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "1") == files(tmp_path / "3")


def test_two_runs_at_once_make_no_volume_of_both(tmp_path):
    """One seed each, into one folder: whoever meets the other at a volume ends, and what has a record is of one seed."""
    scans(tmp_path, "a", "b", "c")
    seeds = [files(finished_alone(tmp_path, f"seed-{seed}", "--seed", str(seed))) for seed in range(2)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command(tmp_path, "both", "--seed", str(seed)), env=ENVIRONMENT, **pipes) for seed in range(2)]
    for process in running:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0 or "gpu-synth: error: out must be written by one run at a time" in said
    got = files(tmp_path / "both")
    for name in (f"{case}_v{variant}" for case in "abc" for variant in range(2)):
        if f"records/{name}.json" in got:
            of = [seed for seed in seeds if seed[f"records/{name}.json"] == got[f"records/{name}.json"]]
            assert [{path for path in got if f"/{name}." in path and got[path] != seed[path]} for seed in of] == [set()]
    finished_alone(tmp_path, "both", "--seed", "1")
    assert files(tmp_path / "both") == seeds[1]


def finished_alone(folder, out, *more):
    finished([(command(folder, out, *more), {})])
    return folder / out


def test_the_card_can_be_written_afterwards(tmp_path):
    scans(tmp_path, "a", "b")
    whole = synthesize(out=str(tmp_path / "whole"), images=f"{tmp_path}/images", labels=f"{tmp_path}/labels", overrides=SMALL)
    half = [f"{tmp_path}/{folder}/a.nii.gz" for folder in FOLDERS[:2]]
    synthesize(out=str(tmp_path / "parts"), images=half[0], labels=half[1], overrides=SMALL)
    other = synthesize(
        out=str(tmp_path / "parts"), images=f"{tmp_path}/images", labels=f"{tmp_path}/labels", overrides=SMALL, rank=1, world_size=2
    )
    assert (other.made, other.card.name) == (("b_v0",), "data-card.md")
    (tmp_path / "parts" / "data-card.md").unlink()
    assert synthesize(out=str(tmp_path / "parts"), card=True).card.is_file()
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert whole.refused == ()


# One process imports once; each line forks a child that synthesises into a folder and is killed: after some seconds, or as it is about to
# change a name for the n-th time, as that is what makes a file be there or not.
FORKS = """
import json, os, signal, sys, time
from pathlib import Path
from gpu_synth.synthesize.run import synthesize

def fatal(method, left):
    def counted(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **options)
    return counted

out_of_sight = os.open(os.devnull, os.O_WRONLY)
for line in sys.stdin:
    options, seconds, change = json.loads(line)
    begin = time.monotonic()
    if (child := os.fork()) == 0:
        os.dup2(out_of_sight, 1), os.dup2(out_of_sight, 2)
        if change is not None:
            left = [change]
            Path.replace, Path.unlink = fatal(Path.replace, left), fatal(Path.unlink, left)
        synthesize(**options)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(status, time.monotonic() - begin, flush=True)
"""


@pytest.fixture
def ended(tmp_path):
    """Run to the end, or to a kill; exit status and seconds."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    options = {"images": f"{tmp_path}/images", "labels": f"{tmp_path}/labels", "overrides": {**SMALL, "count": [1, 2]}}
    with subprocess.Popen([sys.executable, "-c", FORKS], env=ENVIRONMENT, **pipes) as server:

        def run(out, seconds=None, change=None, **more):
            server.stdin.write(json.dumps([{**options, "out": f"{tmp_path}/{out}", **more}, seconds, change]) + "\n")
            server.stdin.flush()
            status, elapsed = server.stdout.readline().split()
            return int(status), float(elapsed)

        yield run


def whole(folder):
    """Files that are not half written."""
    return {name: content for name, content in files(folder).items() if not name.endswith(".partial")}


def test_a_run_killed_at_any_moment_leaves_whole_files_and_is_taken_up_again(tmp_path, ended):
    scans(tmp_path, "a", "b", "c")
    whole_run = min(ended(out)[1] for out in ("first", "whole"))
    want = files(tmp_path / "whole")
    assert len(want) == 3 * 5 + 6
    killed = interrupted = 0
    for attempt, moment in enumerate(np.random.default_rng(0).uniform(0.02, whole_run, 10)):
        out = f"out-{attempt // 2}"  # every second run finds what another has left
        killed += ended(out, seconds=float(moment))[0] == signal.SIGKILL
        left = whole(tmp_path / out)
        assert all(content == want[name] for name, content in left.items()), "no half file"
        for name in "abc":
            if read_record(tmp_path / out, f"{name}_v0"):
                assert sum(f"/{name}_v0." in path for path in left) == 5, "a record is written last"
        assert "data-card.md" not in left or sum(path.startswith("records/") for path in left) == 3
        interrupted += 0 < len(left) < len(want)
    assert killed > 4, "nothing was tested"
    assert interrupted > 2, "nothing was tested"
    for n in range(5):
        assert ended(f"out-{n}")[0] == 0
        assert files(tmp_path / f"out-{n}") == want


def test_killed_at_each_change_of_a_file_no_volume_is_of_two_makings(tmp_path, ended):
    """A run over what another seed has made: until a volume's record is there anew, it has none."""
    scans(tmp_path, "a")
    ended("old", seed=1)
    ended("new")
    old, new = (files(tmp_path / out) for out in ("old", "new"))
    of_volume = [name for name in new if "data-card" not in name]
    assert all(old[name] != new[name] for name in of_volume)
    for change in range(100):
        out = f"out-{change}"
        shutil.copytree(tmp_path / "old", tmp_path / out)
        status, _ = ended(out, change=change)
        left = whole(tmp_path / out)
        assert all(content in (old[name], new[name]) for name, content in left.items())
        if (record := left.get("records/a_v0.json")) is not None:
            made = old if record == old["records/a_v0.json"] else new
            assert [left.get(name) for name in of_volume] == [made[name] for name in of_volume]
        assert ended(out)[0] == 0
        assert files(tmp_path / out) == new
        if status == 0:
            break
    assert change >= 5 + 5 + 6, "what is taken away, what is written, and the card"


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_a_ct_of_512_512_600_goes_through_in_6_gib(tmp_path):
    """Read, plan, render, measure and write, one process; what a training machine's worker has."""
    done = subprocess.run([sys.executable, "-c", WHOLE, tmp_path], check=True, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["made"] == ["ct_v0"]
    assert figures["peak_gib"] < 6


WHOLE = """
import json, resource, sys
from pathlib import Path
import nibabel as nib, numpy as np
from gpu_synth.synthesize.stored import write_stored
from gpu_synth.synthesize.run import synthesize

folder, shape, spacing_mm = Path(sys.argv[1]), (512, 512, 600), (0.75, 0.75, 0.8)
header = nib.Nifti1Header()
header.set_data_shape(shape)
header.set_sform(np.diag([*spacing_mm, 1.0]), 1)
i, j, k = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
organ, hu = (np.zeros(shape, dtype, order="F") for dtype in (np.uint8, np.int16))
grain = np.random.default_rng(0).integers(-20, 21, shape[:2], dtype=np.int16)
for at, z in enumerate(k):  # a liver's size: 20 x 17 x 19 cm
    organ[..., at] = ((i - 0.3) / 0.52)[:, None] ** 2 + (j / 0.45) ** 2 + (z / 0.4) ** 2 < 1
    hu[..., at] = np.where((i / 0.95)[:, None] ** 2 + (j / 0.8) ** 2 < 1, 40 + 60 * organ[..., at] + np.roll(grain, at), -1000)
for name, data in (("ct", hu), ("mask", organ)):
    header.set_data_dtype(data.dtype)
    write_stored(folder / f"{name}.nii.gz", header, data)
del hu, organ, data
made = synthesize(
    out=str(folder / "out"), images=str(folder / "ct.nii.gz"), labels=str(folder / "mask.nii.gz"),
    overrides={"size_prob": (0.0, 0.0, 0.0, 1.0), "count": (6, 6), "cirrhosis_prob": 1.0},
).made
print(json.dumps({"made": made, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""

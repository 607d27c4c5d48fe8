"""Two processes for one: the same samples at each step, the same weights on both, stopped and going on, by each way to start them."""

import os
import signal
import sys
import time
from pathlib import Path

import fit_runs
import pytest
from fit_runs import Steady, fit, losses, options, rows, spawn, stopping

from gpu_synth.trainers.sampling import ScanSampler

DOCS = Path(__file__).parents[2] / "docs"
TWO = {"trainer__devices": 2, "trainer__strategy": "ddp"}


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_scan_is_scored_once_and_ranks_take_as_many_turns(world):
    ranks = [list(ScanSampler(range(4), rank, world)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(ScanSampler(range(4), 0, world))}
    assert sorted(number for rank in ranks for number in rank if number < 4) == [0, 1, 2, 3]


def test_one_rank_or_two_see_the_same_samples_and_one_goes_on_for_the_other(cache, tmp_path, monkeypatch):
    """Steps 1 to 2 on one rank of four patches, 3 to 5 on two of two, stopped by a signal to the second alone, 6 to 8 on one."""
    monkeypatch.setattr("gpu_synth.trainers.module.SwinUNETR", Steady)
    more = {"data__samples_per_epoch": 16, "data__val_cases": "[case1,case2,case3]", "trainer__val_check_interval": 0.5}
    assert fit(cache, tmp_path / "one", data__batch_size=4, **more) == 0
    both = tmp_path / "both"
    assert fit(cache, both, {"batch": 1}, data__batch_size=4, ckpt_path="last", **more) == 143
    two = [*options(cache, both, data__batch_size=2, ckpt_path="last", **TWO, **more), *stopping({"batch": 2, "rank": 1, "by": "SIGUSR1"})]
    said, _ = (process := spawn(fit_runs.__file__, "fit", *two)).communicate(timeout=200)
    assert process.returncode == 138, said
    assert "step 2\n" in said, "the checkpoint that it goes on from"
    assert fit(cache, both, data__batch_size=4, ckpt_path="last", **more) == 0
    assert losses(both) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert len(losses(both)) == 8
    for name, tolerance in (("val/dsc_organ", 2e-3), ("val/dsc_tumor", 2e-3), ("synthesis/lesions_per_epoch", 0)):
        alone, together = ([float(dict(row)[name]) for row in rows(folder) if name in dict(row)] for folder in (tmp_path / "one", both))
        assert together == pytest.approx(alone, abs=tolerance)
        assert len(alone) == (2 if "epoch" in name else 4)


SWIN = {"data__samples_per_epoch": 4, "trainer__check_val_every_n_epoch": 2, "trainer__strategy": "ddp", "trainer__devices": 2}


SRUN = """#!{python}
import os, signal, subprocess, sys
ranks = [subprocess.Popen(sys.argv[1:], env=dict(os.environ, SLURM_PROCID=str(n), SLURM_LOCALID=str(n))) for n in range(2)]
signal.signal(signal.SIGUSR1, lambda *_: [rank.send_signal(signal.SIGUSR1) for rank in ranks])
open("srun.pid", "w").write(str(os.getpid()))
sys.exit(max(rank.wait() for rank in ranks))
"""
SLURM = {
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "gpu-synth",
    "SLURM_NODELIST": "localhost",
}


def test_two_ranks_of_torchrun_and_a_slurm_job_queued_again_at_its_limit_end_with_the_same_weights(cache, tmp_path):
    """Swin UNETR to the end; then the script of the documentation, with two local processes for what srun starts."""
    whole = tmp_path / "whole"
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "gpu_synth.cli", "fit")
    by_torchrun, _ = (process := spawn(*start, *options(cache, whole, **SWIN))).communicate(timeout=200)
    assert process.returncode == 0, by_torchrun
    assert len(losses(whole)) == 4
    assert _end(by_torchrun)[1] == "2 process(es)"

    commands = {
        "srun": SRUN.format(python=sys.executable),
        "scontrol": '#!/bin/sh\necho "$@" >> requeued\n',
        "gpu-synth": f'#!/bin/sh\nexec {sys.executable} -m gpu_synth.cli "$@"\n',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    runs = tmp_path / "runs"
    told = {**SWIN, "trainer__strategy": None, "trainer__devices": None, "trainer__default_root_dir": None, "data__data_dir": None}
    job = {"cwd": tmp_path, "env": {**SLURM, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}}
    command = ("sh", DOCS / "slurm.sh", cache, runs, *options(cache, runs, **told))
    first = spawn(*command, **job)
    wait_for(lambda: list(runs.glob("version_0/metrics.csv")), first)  # the first step is logged
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGUSR1)
    said, _ = first.communicate(timeout=200)
    assert first.returncode == 138, said
    assert f"no checkpoint in {runs}: a new run" in said
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    assert len(losses(runs)) < 4
    said, _ = (second := spawn(*command, **job)).communicate(timeout=200)
    assert second.returncode == 0, said
    assert "going on from" in said
    assert rows(runs) == rows(whole)
    assert _end(said) == _end(by_torchrun)


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_last_whole_one(cache, tmp_path, capsys):
    more = {"data__samples_per_epoch": 4, "trainer__max_epochs": 1, "trainer__check_val_every_n_epoch": 2, "checkpoint__every_steps": 1}
    killed = tmp_path / "killed"
    process = spawn("-m", "gpu_synth.cli", "fit", *options(cache, killed, **more))
    last = killed / "version_0" / "checkpoints" / "last.ckpt"
    partial = last.with_name(last.name + ".partial")
    while True:
        wait_for(lambda: last.is_file() and partial.is_file(), process, every=0.0002)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        if partial.is_file():  # it stands still within the write
            break
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert partial.is_file()
    step = fit_runs.stored(killed, "last")["global_step"]
    assert 1 <= step < 4
    assert fit(cache, killed, ckpt_path="last", **more) == 0
    assert f"going on from {last}, epoch 0, step {step}\n" in capsys.readouterr().out
    assert fit(cache, tmp_path / "whole", **more) == 0
    assert losses(killed) == losses(tmp_path / "whole")
    assert len(losses(killed)) == 4
    assert fit_runs.same_weights(fit_runs.stored(killed, "last"), fit_runs.stored(tmp_path / "whole", "last"))


def _end(said: str) -> list[str]:
    """Digest and number of processes that a run ends with."""
    (line,) = (line for line in said.splitlines() if line.startswith("gpu-synth: step 4, weights "))
    return line.removeprefix("gpu-synth: step 4, weights ").split(" on ")


def wait_for(condition, process, every: float = 0.05) -> None:
    """Wait until a process that runs has done something."""
    until = time.monotonic() + 100
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError(process.communicate()[0])
        time.sleep(every)

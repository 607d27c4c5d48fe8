"""A run that is stopped and goes on is the run that was never stopped: to the last bit of losses, weights, moments and logs."""

import pytest
from fit_runs import Small, fit, losses, rows, same_weights, stored


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network that costs nothing, and draws."""
    monkeypatch.setattr("gpu_synth.trainers.module.SwinUNETR", Small)


HALVES = {"trainer__val_check_interval": 0.5}
ACCUMULATED = {"trainer__accumulate_grad_batches": 2}
CASES = {
    "middle-of-an-epoch": ({}, {"batch": 2}, 3),
    "end-of-an-epoch": ({}, {"batch": 5, "by": "SIGUSR1"}, 6),
    "between-micro-batches": (ACCUMULATED, {"batch": 2, "by": "SIGINT"}, 2),
    "after-a-validation-within-an-epoch": (HALVES, {"batch": 4}, 5),
    "before-a-validation-within-an-epoch": (HALVES, {"batch": 2}, 3),
    "within-a-validation": (HALVES, {"validation": 2}, 9),
    "within-a-validation-between-micro-batches": ({**ACCUMULATED, "trainer__val_check_interval": 3}, {"validation": 0}, 2),
    "at-an-error": ({"checkpoint__every_steps": 4}, {"batch": 10, "by": "error"}, 8),
    "workers": ({"data__num_workers": 2}, {"batch": 7}, 8),
    "averaged-weights": ({"model__ema_decay": 0.9, **HALVES}, {"batch": 3}, 4),
    "mixed-precision": ({"trainer__precision": "bf16-mixed"}, {"batch": 3}, 4),
}
CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138}


@pytest.mark.parametrize(("more", "stop", "step"), CASES.values(), ids=CASES)
def test_a_run_goes_on_to_the_last_bit(cache, tmp_path, capsys, more, stop, step):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert fit(cache, whole, **more) == 0
    if stop.get("by") == "error":
        with pytest.raises(RuntimeError, match="stopped by an error"):
            fit(cache, halves, stop, **more)
    else:
        assert fit(cache, halves, stop, **more) == CODES[stop.get("by", "SIGTERM")]
    assert stored(halves, "last")["global_step"] == step
    capsys.readouterr()
    assert fit(cache, halves, ckpt_path="last", **more) == 0
    said = capsys.readouterr().out
    assert f"going on from {halves / 'version_0/checkpoints/last.ckpt'}, epoch " in said
    assert f", step {step}\n" in said
    assert losses(halves) == losses(whole)
    assert len(losses(whole)) == 2 * steps(more)
    assert rows(halves) == rows(whole)
    for name in ("best", "last"):
        assert same_weights(stored(halves, name), stored(whole, name)), name


def steps(more) -> int:
    return 6 // more.get("trainer__accumulate_grad_batches", 1)

"""The experiment, run by run: every arm with the first seed, then every arm with the next. A run that is done is never done again."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from gpu_synth.bench.learning.scans import Scans, prepare_scans, test_scans
from gpu_synth.bench.learning.score import score
from gpu_synth.bench.learning.settings import Arm, Scale
from gpu_synth.bench.learning.train import about, load_weights, save_weights, segmenter, train
from gpu_synth.bench.machine import machine
from gpu_synth.files import whole_file

Result = dict[str, Any]


def experiment(
    scale: Scale, arms: Mapping[str, Arm], seeds: Sequence[int], ct_dir: Path, held_out_ct: str, work: Path, out: Path
) -> list[Path]:
    """Train and score each arm with each seed; what lies in the folders already is kept.

    Args:
        scale: Sizes.
        arms: What is compared, by name.
        seeds: Each gives the weights at the beginning, the patches and the tumours of a run.
        ct_dir: Folder of healthy CTs, see `prepare_scans`; the same for all runs.
        held_out_ct: The one that is not trained on.
        work: Folder for scans and weights.
        out: Folder for results, a JSON file a run.

    Returns:
        The results' files.

    Raises:
        ValueError: A CT is not there, or `out` holds the result of other settings.
    """
    runs = [(seed, name, out / f"learning-{scale.name}-{name}-seed{seed}.json") for seed, name in product(seeds, arms)]
    pending = [run for run in runs if not _is_done(run[2], _settings(scale, run[1], arms[run[1]], run[0]), held_out_ct)]
    folder = work / f"{scale.name}-without-{held_out_ct}"
    if pending:
        scans = prepare_scans(folder, ct_dir, held_out_ct, scale)
    for seed, name, path in pending:
        settings = _settings(scale, name, arms[name], seed)
        weights = folder / "weights" / f"{name}-seed{seed}.safetensors"
        _train(scans, arms[name], scale, seed, weights, settings)
        result = _score(scans, scale, folder / "tests", weights)
        out.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as stream:
            stream.write(as_text({**settings, **result}).encode())
        print(f"wrote {path}; its weights are {weights}", flush=True)
    return [path for _, _, path in runs]


def _settings(scale: Scale, name: str, arm: Arm, seed: int) -> Result:
    """What a run is of, as its result and its weights say it."""
    settings: Result = json.loads(json.dumps({"scale": asdict(scale), "arm": name, "trained_on": asdict(arm), "seed": seed}))
    return settings


def _is_done(path: Path, settings: Result, held_out_ct: str) -> bool:
    """Whether a run has left its result."""
    if not path.exists():
        return False
    known = json.loads(path.read_text())
    differing = [key for key, value in settings.items() if known.get(key) != value]
    if known["held_out"][-1] != f"{held_out_ct}_ct":
        differing.append("held_out_ct")
    if differing:
        raise ValueError(f"out must hold results of the same settings, got {path} of another {', '.join(differing)}; move it away")
    return True


def _train(scans: Scans, arm: Arm, scale: Scale, seed: int, path: Path, settings: Result) -> None:
    """Train and keep the weights, if they are not there."""
    if about(path).get("settings") == settings:
        return
    begin = time.perf_counter()
    module, losses = train(scans, arm, scale, seed)
    save_weights(module.network, path, {"settings": settings, "losses": losses, "seconds": round(time.perf_counter() - begin, 1)})


def _score(scans: Scans, scale: Scale, tests: Path, path: Path) -> Result:
    """Score weights as they are kept, so that the figures are theirs."""
    device, module, trained, begin = device_of_runs(), segmenter(scale), about(path), time.perf_counter()
    load_weights(module.network, path)
    records = score(module, test_scans(scans, scale, tests), device)
    return {
        **machine(device),
        "parameters": sum(parameter.numel() for parameter in module.network.parameters()),
        "seconds": {"training": trained["seconds"], "scoring": round(time.perf_counter() - begin, 1)},
        "loss_by_tenth": [round(loss, 4) for loss in trained["losses"]],
        "held_out": list(scans.held_out),
        "scans": records,
    }


def device_of_runs() -> torch.device:
    """A CUDA device where there is one, as Lightning chooses."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def as_text(result: Result) -> str:
    """A result as JSON, a scan a line."""
    scans = ",\n".join(f"  {json.dumps(scan)}" for scan in result["scans"])
    rest = {key: value for key, value in result.items() if key != "scans"}
    return json.dumps(rest, indent=1, ensure_ascii=False)[:-2] + f',\n "scans": [\n{scans}\n ]\n}}\n'

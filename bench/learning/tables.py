"""Tables of the experiment, from the results of its runs: a head, and rows of text.

Each scan's score is the mean of an arm's seeds; intervals are 95 %, of a bootstrap over scans (`gpu_synth.evaluate`), and tell nothing of
seeds, whose range stands beside them. Arms are compared scan by scan, by the seeds that both have.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_synth.bench.learning.scans import SETS
from gpu_synth.bench.learning.settings import ARMS, PAIRS
from gpu_synth.evaluate.intervals import Estimate, difference, difference_of_shares, mean_over_scans, share_of_lesions
from gpu_synth.evaluate.lesions import SIZES

Result = dict[str, Any]
Rows = tuple[Sequence[str], list[Sequence[object]]]


def learned(results: Sequence[Result]) -> Rows:
    """Tumour DSC and NSD, organ DSC and false positives, of each set of scans and arm."""
    head = ("scans", "arm", "seeds", "tumour DSC, %", "of each seed", "tumour NSD at 2 mm, %", "false positives a scan", "organ DSC, %")
    rows: list[Sequence[object]] = []
    for group, name, runs in _cells(results):
        dsc = _values(runs, group, "dsc_tumor")
        nsd, false, organ = (_values(runs, group, key).mean(0) for key in ("nsd_tumor", "false_positives", "dsc_organ"))
        each = " / ".join(f"{100 * mean:.1f}" for mean in dsc.mean(1))
        percents = [_words(mean_over_scans(x.tolist()), 100) for x in (dsc.mean(0), nsd)]
        rows.append(
            (group, name, len(runs), percents[0], each, percents[1], _words(mean_over_scans(false.tolist())), f"{100 * organ.mean():.1f}")
        )
    return head, rows


def found(results: Sequence[Result]) -> Rows:
    """Share of lesions found, by size: mean of the seeds, and how many lesions there are."""
    rows: list[Sequence[object]] = []
    for group, name, runs in _cells(results):
        hits, lesions = (_values(runs, group, key).sum(0) for key in ("found", "lesions"))
        every = share_of_lesions(hits.sum(1).tolist(), lesions.sum(1).tolist())
        by_size = [f"{100 * k / n:.0f} of {n // len(runs)}" if n else "none" for k, n in zip(hits.sum(0), lesions.sum(0), strict=True)]
        rows.append((group, name, *by_size, f"{_words(every, 100, 0)} of {lesions.sum() // len(runs)}"))
    return ("scans", "arm", *(f"{size} mm" for size in SIZES), "all"), rows


def compared(results: Sequence[Result]) -> Rows:
    """How much higher one arm scores than another, scan by scan."""
    head = ("scans", "arms", "seeds", "tumour DSC, points", "p", "seeds in which it is higher", "lesions found, points", "p")
    rows: list[Sequence[object]] = []
    for group in SETS:
        for first, second in PAIRS:
            ours, theirs = _shared(_runs(results, first), _runs(results, second))
            if not ours:
                continue
            a, b = (_values(runs, group, "dsc_tumor") for runs in (ours, theirs))
            dsc = difference(a.mean(0).tolist(), b.mean(0).tolist())
            hits, other_hits, lesions = (
                _values(runs, group, key).sum((0, 2)).tolist() for runs, key in ((ours, "found"), (theirs, "found"), (ours, "lesions"))
            )
            share = difference_of_shares(hits, other_hits, lesions)
            wins = f"{(a.mean(1) > b.mean(1)).sum()} of {len(ours)}"
            of_dsc, of_share = (_words(each.mean, 100) for each in (dsc, share))
            rows.append((group, f"{first} − {second}", len(ours), of_dsc, _p(dsc.p_value), wins, of_share, _p(share.p_value)))
    return head, rows


def runs(results: Sequence[Result]) -> Rows:
    """What was run, where, and what it took."""
    rows: list[Sequence[object]] = [
        (
            run["arm"],
            run["seed"],
            f"{run['loss_by_tenth'][0]:.2f} → {run['loss_by_tenth'][-1]:.2f}",
            f"{run['seconds']['training']:.0f}",
            f"{run['seconds']['scoring']:.0f}",
            f"{run['device']}, {run['threads']} thread(s), torch {run['versions']['torch']}, monai {run['versions']['monai']}",
            run["commit"],
        )
        for run in sorted(results, key=lambda run: (run["seed"], list(ARMS).index(run["arm"])))
    ]
    return ("arm", "seed", "loss, first and last tenth", "training, s", "scoring, s", "machine", "commit"), rows


TABLES: dict[str, Callable[[Sequence[Result]], Rows]] = {f"learning-{table.__name__}": table for table in (learned, found, compared, runs)}


def _cells(results: Sequence[Result]) -> list[tuple[str, str, list[Result]]]:
    """Each set of scans with each arm that has a run."""
    return [(group, name, of_arm) for group in SETS for name in ARMS if (of_arm := _runs(results, name))]


def _runs(results: Sequence[Result], name: str) -> list[Result]:
    """An arm's runs, by seed."""
    return sorted((result for result in results if result["arm"] == name), key=lambda run: int(run["seed"]))


def _shared(ours: Sequence[Result], theirs: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """The runs of two arms whose seeds both have."""
    both = {run["seed"] for run in ours} & {run["seed"] for run in theirs}
    return [run for run in ours if run["seed"] in both], [run for run in theirs if run["seed"] in both]


def _values(of_runs: Sequence[Result], group: str, key: str) -> NDArray[Any]:
    """A figure of each run and scan of a set: (runs, scans, …)."""
    return np.array([[scan[key] for scan in run["scans"] if scan["set"] == group] for run in of_runs])


def _words(estimate: Estimate, scale: float = 1.0, digits: int = 1) -> str:
    value, low, high = (f"{scale * x:.{digits}f}" for x in estimate[:3])
    return f"{value} [{low}, {high}]" if math.isfinite(estimate[1]) else value  # equal values have no interval


def _p(value: float) -> str:
    return f"{value:.3f}"

"""What the scans say together: means, lesions by size, and how two models differ."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpu_synth.evaluate.case import Case, Scores, Settings
from gpu_synth.evaluate.intervals import (
    Difference,
    Estimate,
    difference,
    difference_of_shares,
    mean_over_scans,
    share_of_lesions,
    share_of_scans,
)
from gpu_synth.evaluate.lesions import SIZES, froc


class Metric(NamedTuple):
    """A figure of each scan, whose mean is reported.

    Attributes:
        key: Its name in `scores.json`.
        title: Its name for people.
        value: Of a scan, by one model.
        counts: Whether a scan has it.
        percent: Whether it is a share.
    """

    key: str
    title: str
    value: Callable[[Scores], float]
    counts: Callable[[Case], bool]
    percent: bool = True


def _has_organ(case: Case) -> bool:
    return case.organ_drawn


def _has_tumor(case: Case) -> bool:
    return case.tumor_ml > 0


def _always(case: Case) -> bool:
    return True


DSC_TUMOR = Metric("dsc_tumor", "tumour DSC", lambda scores: scores.tumor.dsc, _has_tumor)
NSD_TUMOR = Metric("nsd_tumor", "tumour NSD at 2 mm", lambda scores: scores.tumor.nsd, _has_tumor)
DSC_ORGAN = Metric("dsc_organ", "organ DSC", lambda scores: scores.organ.dsc, _has_organ)
NSD_ORGAN = Metric("nsd_organ", "organ NSD at 2 mm", lambda scores: scores.organ.nsd, _has_organ)
FALSE_POSITIVES = Metric(
    "false_positives_per_scan", "false positives per scan", lambda scores: scores.count("predicted", matched=False), _always, percent=False
)
METRICS = (DSC_TUMOR, NSD_TUMOR, FALSE_POSITIVES, DSC_ORGAN, NSD_ORGAN)


class Summary(NamedTuple):
    """All scans by one model.

    Attributes:
        means: Of each metric, by its key.
        tumor_empty: Share of the scans without a tumour in which none was predicted: their mean DSC.
        organ_empty: The same of the organ.
        found: Share of lesions found.
        found_by_size: The same for each of `SIZES`.
        precision: Share of predicted lesions that meet a real one.
        froc: See `lesions.froc`.
    """

    means: dict[str, Estimate]
    tumor_empty: Estimate
    organ_empty: Estimate
    found: Estimate
    found_by_size: tuple[Estimate, ...]
    precision: Estimate
    froc: dict[str, Any]


class Model(NamedTuple):
    """Whose predictions they are.

    Attributes:
        name: What it is called.
        where: Where its predictions lie.
        extra: Those without a reference.
        has_probabilities: Whether probabilities came with them.
    """

    name: str
    where: str
    extra: Sequence[str]
    has_probabilities: bool


class Evaluation(NamedTuple):
    """All that was found.

    Attributes:
        references: Where they lie.
        settings: How masks were read.
        models: One or two.
        cases: Scored.
        refused: Name and reason of each case that could not be.
        summaries: One a model.
    """

    references: str
    settings: Settings
    models: Sequence[Model]
    cases: Sequence[Case]
    refused: Sequence[tuple[str, str]]
    summaries: Sequence[Summary]

    @property
    def names(self) -> list[str]:
        """What the models are called."""
        return [model.name for model in self.models]

    def missing(self, model: int) -> list[str]:
        """Cases of which a model predicted nothing."""
        return [case.name for case in self.cases if case.models[model].missing]


class Row(NamedTuple):
    """A figure of the headline: its name, what it is for people, its value by each model, and whether it is a share."""

    key: str
    title: str
    estimates: list[Estimate]
    percent: bool


def headline(summaries: Sequence[Summary]) -> list[Row]:
    """The figures that are wanted first, in order."""
    rows = [Row(metric.key, metric.title, [summary.means[metric.key] for summary in summaries], metric.percent) for metric in METRICS]
    return [*rows[:2], Row("lesions_found", "lesions found", [summary.found for summary in summaries], True), *rows[2:]]


def summarise(cases: Sequence[Case], model: int) -> Summary:
    """Put the scans of one model together."""
    means = {metric.key: mean_over_scans(values_of(metric, cases, model)) for metric in METRICS}
    scores = [case.models[model] for case in cases]
    lesions = [lesion for each in scores for lesion in each.lesions]
    return Summary(
        means,
        share_of_scans([case.models[model].tumor_ml == 0 for case in cases if not _has_tumor(case)]),
        share_of_scans([case.models[model].organ_ml == 0 for case in cases if case.organ_ml == 0]),
        _share(scores, "reference"),
        tuple(_share(scores, "reference", size) for size in range(len(SIZES))),
        _share(scores, "predicted"),
        froc(lesions, len(cases)),
    )


def values_of(metric: Metric, cases: Sequence[Case], model: int) -> list[float]:
    """A metric's value in each scan that has it."""
    return [metric.value(case.models[model]) for case in cases if metric.counts(case)]


def compare(cases: Sequence[Case]) -> dict[str, Difference]:
    """How much higher the first model scores than the second, scan by scan: the metrics, and the share of lesions found."""
    out = {metric.key: difference(values_of(metric, cases, 0), values_of(metric, cases, 1)) for metric in METRICS}
    ours, theirs = ([case.models[model].count("reference", matched=True) for case in cases] for model in (0, 1))
    out["lesions_found"] = difference_of_shares(ours, theirs, [case.models[0].count("reference") for case in cases])
    return out


def as_json(cases: Sequence[Case], summaries: Sequence[Summary], names: Sequence[str]) -> dict[str, Any]:
    """All figures as plain data; what is not known is null."""
    models = {name: _summary_json(summary) for name, summary in zip(names, summaries, strict=True)}
    if len(summaries) < 2:
        return models
    pairs = {key: {**_json(each.mean), "p_value": _number(each.p_value)} for key, each in compare(cases).items()}
    return {**models, "difference": {"what": f"{names[0]} − {names[1]}", "test": "sign-flip permutation test, two-sided", **pairs}}


def _share(scores: Sequence[Scores], kind: str, size: int | None = None) -> Estimate:
    """Share of a kind of lesions that is matched."""
    return share_of_lesions([each.count(kind, True, size) for each in scores], [each.count(kind, None, size) for each in scores])


def _summary_json(summary: Summary) -> dict[str, Any]:
    return {
        **{key: _json(each) for key, each in summary.means.items()},
        "dsc_tumor_empty": _json(summary.tumor_empty),
        "dsc_organ_empty": _json(summary.organ_empty),
        "lesions_found": _json(summary.found),
        "lesions_found_by_radius_mm": {size: _json(each) for size, each in zip(SIZES, summary.found_by_size, strict=True)},
        "predicted_lesions_that_are_real": _json(summary.precision),
        "froc": {**summary.froc, "score": _number(summary.froc["score"])},
    }


def _json(estimate: Estimate) -> dict[str, Any]:
    ends = [_number(estimate.low), _number(estimate.high)]
    return {"value": _number(estimate.value), "interval_95": None if None in ends else ends, "count": estimate.n}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value

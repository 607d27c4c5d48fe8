"""Which prepared scans a training, its validation and its test see."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from gpu_synth.manifest import Case, Manifest, load_manifest

Tumors = Literal["synthetic", "real", "both"]
WANTED = {"synthetic": "without a tumour", "real": "with a tumour", "both": "of either kind"}


class Split(NamedTuple):
    """Scans to train on, to validate on, and to test on: no scan is two of them."""

    training: list[Case]
    held_out: list[Case]
    test: list[Case]


def load_all(data_dir: str | Sequence[str]) -> Manifest:
    """Read what `gpu-synth prepare` wrote into one folder or several, as one data set.

    Raises:
        ValueError: A folder holds none, two have another spacing or organ, or a name is there twice.
    """
    places = [data_dir] if isinstance(data_dir, str) else list(data_dir)
    manifests = [load_manifest(place) for place in places]
    if len(manifests) == 1:
        return manifests[0]
    if not manifests:
        raise ValueError("data_dir must name a folder that gpu-synth prepare wrote, got an empty list")
    spacings = [manifest.settings["spacing_mm"] for manifest in manifests]
    if any(spacing != spacings[0] for spacing in spacings):
        raise ValueError(f"data_dir must name folders of one spacing, got {spacings} mm; prepare them with the same --spacing_mm")
    organs = sorted({manifest.settings["organ"] for manifest in manifests if "organ" in manifest.settings})
    if len(organs) > 1:
        raise ValueError(f"data_dir must name folders of one organ, got {organs} in {places}; prepare them with one --organ")
    cases = tuple(
        replace(case, image=str((manifest.root / case.image).absolute()), label=str((manifest.root / case.label).absolute()))
        for manifest in manifests
        for case in manifest.cases
    )
    twice = [name for name, n in Counter(case.name for case in cases).items() if n > 1]
    if twice:
        raise ValueError(f"data_dir must name folders that share no case, got {', '.join(twice[:8])} more than once in {places}")
    return replace(manifests[0], cases=cases)


def split(manifest: Manifest, tumors: Tumors, val_cases: Sequence[str], test_cases: Sequence[str]) -> Split:
    """Share scans out.

    Args:
        manifest: All of them.
        tumors: "synthetic": scans without a tumour are trained and validated on; "real": those with one; "both": all.
        val_cases: Names of those that are validated on; none: every fifth that is left, at least one.
        test_cases: Names of those that are neither trained nor validated on.

    Raises:
        ValueError: A name is not there, is named for both, or is validated on and of the wrong kind; nothing is left to train on.
    """
    known = {case.name: case for case in manifest.cases}
    for argument, names in (("val_cases", val_cases), ("test_cases", test_cases)):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"{argument} must name prepared cases, got {', '.join(unknown)}, which are none of the {len(known)} in data_dir "
                f"({', '.join(list(known)[:4])}, …); prepare them, or leave them out"
            )
    test = [known[name] for name in test_cases]
    usable = [case for case in manifest.cases if case not in test and (tumors == "both" or (case.tumor_ml > 0) == (tumors == "real"))]
    held_out = [known[name] for name in val_cases] or usable[4::5] or usable[-1:]
    if wrong := [case.name for case in held_out if case not in usable]:
        raise ValueError(f"val_cases must be {WANTED[tumors]} and none of test_cases, got {', '.join(wrong)}; tumors is {tumors!r}")
    training = [case for case in usable if case not in held_out]
    if not training:
        raise ValueError(
            f"data_dir must hold a case that is not held out, {WANTED[tumors]}, got {list(known)}, of which "
            f"{[case.name for case in held_out]} are validated on; prepare more scans"
        )
    return Split(training, held_out, test)

"""Which files are one case: its reference, what each model predicted, its probabilities, its CT."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from gpu_synth.sources import GLOBS, find_files, match_names

ENDINGS = 2  # `gpu-synth predict` writes case01_ct_seg for case01_ct, whose reference may be case01_liver
PROBABILITIES = "probabilities"  # the folder within the predictions in which `gpu-synth predict` leaves them

Where = str | Path


class Files(NamedTuple):
    """A case's files; predictions and probabilities follow the models.

    Attributes:
        case: Name, from the reference's file.
        reference: The mask that is right.
        predictions: What each model wrote; None where it wrote nothing.
        probabilities: How likely each voxel is tumour, by each model; None where that is not told.
        image: The CT, for pictures.
    """

    case: str
    reference: Path
    predictions: tuple[Path | None, ...]
    probabilities: tuple[Path | None, ...]
    image: Path | None


class Pairing(NamedTuple):
    """All cases, and what belongs to none.

    Attributes:
        cases: In order of name.
        extra: Each model's predictions without a reference.
        has_probabilities: Whether each model's probabilities are there.
    """

    cases: list[Files]
    extra: tuple[tuple[str, ...], ...]
    has_probabilities: tuple[bool, ...]


def pair(references: Where, predictions: Where, compare: Where | None, probabilities: Where | None, images: Where | None) -> Pairing:
    """Find the files of every reference by name, as `gpu-synth prepare` does; endings such as _seg and _ct may differ.

    Args:
        references: Folder or glob.
        predictions: Folder or glob.
        compare: Another model's.
        probabilities: Folder or glob; None: the folder `probabilities` within the predictions, where there is one.
        images: Folder or glob.

    Raises:
        ValueError: Nothing is found, no prediction has a reference, a file could belong to several cases or is given twice, or a
            prediction lacks its probabilities while others have theirs.
    """
    known = find_files("references", references)
    twice = [name for name, n in Counter(name for name, _ in known).items() if n > 1]
    if twice:
        raise ValueError(f"references must have names of their own, got {', '.join(twice)} more than once; {_globs('predictions')}")
    models: dict[str, Where] = {"predictions": predictions} | ({"compare": compare} if compare is not None else {})
    found = [_matched(argument, where, known) for argument, where in models.items()]
    maps = [
        _probabilities(where, given, known, pairs)
        for where, given, (pairs, _) in zip(models.values(), (probabilities, None), found, strict=False)
    ]
    cts = _matched("images", images, known)[0] if images is not None else {}
    cases = [
        Files(name, path, tuple(pairs.get(name) for pairs, _ in found), tuple((each or {}).get(name) for each in maps), cts.get(name))
        for name, path in sorted(known)
    ]
    return Pairing(cases, tuple(extra for _, extra in found), tuple(each is not None for each in maps))


def _globs(argument: str) -> str:
    """How to name the files of an argument and their references so that they belong together."""
    return GLOBS.replace("--labels", "--references").replace("--images", f"--{argument}")


def _matched(argument: str, where: Where, known: list[tuple[str, Path]]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files by their case's name, and the names of those without a reference."""
    files = find_files(argument, where)
    same = {path.resolve() for _, path in files} & {path.resolve() for _, path in known}
    if both := sorted(path for path in same if path.is_file()):  # a folder of DICOM may hold a CT and its mask
        raise ValueError(
            f"{argument} and references must be different files, got {both[0].name} and {len(both) - 1} more as both; {_globs(argument)}"
        )
    matched = match_names(known, files, ENDINGS)
    unclear = _unclear(matched.first, matched.second)
    if unclear or not matched.pairs:
        names = ", ".join(unclear or [path.name for _, path in files][:3])
        raise ValueError(
            f"{argument} must match references by name, each one at most, got {names} for {known[0][1].name}"
            f"{' and others' if len(known) > 1 else ''}; {_globs(argument)}"
        )
    name_of = {path: name for name, path in known}
    return {name_of[reference]: path for _, reference, path in matched.pairs}, tuple(path.name for _, path in matched.second)


def _unclear(references: list[tuple[str, Path]], rest: list[tuple[str, Path]]) -> list[str]:
    """Files left over that could be a reference's which has none: two of them, or for two references."""
    return [file.name for name, file in rest if any(match_names([one], [(name, file)], ENDINGS).pairs for one in references)]


def _probabilities(where: Where, given: Where | None, known: list[tuple[str, Path]], predicted: dict[str, Path]) -> dict[str, Path] | None:
    """Probability maps by their case's name; None where there are none."""
    if given is None:
        given = Path(where) / PROBABILITIES
        if not given.is_dir():
            return None
    maps, _ = _matched("probabilities", given, known)
    if lacking := sorted(set(predicted) - set(maps)):
        raise ValueError(
            f"probabilities must hold a file for every prediction, got none for {', '.join(lacking)} in {given}; predict again"
        )
    return maps

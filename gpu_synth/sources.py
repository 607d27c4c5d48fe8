"""Which CT belongs to which mask: two folders, two globs, or a Decathlon-style list."""

import glob
import json
import re
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path
from typing import NamedTuple

from gpu_synth.dicom.files import holds_dicom, in_folder

SUFFIX = re.compile(r"(?<=.)[-_](0000|ct|image|img|volume|vol|liver|organ|labels?|seg|segmentation|mask|gt)$", re.IGNORECASE)
GLOBS = "give quoted globs whose wildcards stand for the case: --images 'DIR/*_ct.nii.gz' --labels 'DIR/*_liver.nii.gz'"
_WILD = re.compile(r"(\*\*/?|\*|\?|\[[^\]]+\])")


class Source(NamedTuple):
    """A case's name, and its files or DICOM folders; a list may lack a label."""

    name: str
    image: Path
    label: Path | None


def find_sources(images: str | Path | None = None, labels: str | Path | None = None, datalist: str | Path | None = None) -> list[Source]:
    """Pair CTs with masks.

    Args:
        images: folder of .nii or .nii.gz files (its own, not those of subfolders), folder of DICOM folders, one a case, or a glob of
            either, such as `ct/*_ct.nii.gz` or `patients/*/ct`.
        labels: the same for the masks.
        datalist: instead of both, a JSON file whose "training" is a list of {"image": …, "label": …}, paths relative to it.

    Returns:
        Cases in order of name, or in the list's order. In a folder a file's name, without its ending, is the case's; in a glob, what the
        wildcards stand for. Image and mask belong together where these names are equal, or become so when one ending such as
        _0000, _ct, _image, _label, _seg, _mask or _liver (see `SUFFIX`) is dropped from either.

    Raises:
        ValueError: neither or both ways are given, nothing is found, or names do not match one to one (all of them are listed).
    """
    if datalist is not None and images is None and labels is None:
        return _listed(Path(datalist))
    if datalist is not None or images is None or labels is None:
        raise ValueError(f"images and labels, or datalist alone, must be given, got {images=}, {labels=}, {datalist=}")
    found, masks = find_files("images", images), find_files("labels", labels)
    both = sorted(path for path in {path for _, path in found} & {path for _, path in masks} if path.is_file())
    if both:
        raise ValueError(f"images and labels must be different files, got {both[0].name} and {len(both) - 1} more as both; {GLOBS}")
    return _pair(found, masks)


def find_files(argument: str, where: str | Path) -> list[tuple[str, Path]]:
    """Find NIfTI files, DICOM files and DICOM folders, and name them, in order of their paths.

    A folder holds NIfTI files, or else DICOM: its subfolders that hold any, at any depth, are a case each; slices of one CT in the folder
    itself are one case, masks and multi-frame files one each. Hidden files, such as macOS leaves in archives, are none.

    Args:
        argument: what the user gave them as, for messages.
        where: a folder, a file or a glob, as for `find_sources`.

    Returns:
        Names, which are not always unique, and paths.

    Raises:
        ValueError: there is none.
    """
    literal = f"{glob.escape(str(where))}/*" if Path(where).is_dir() else glob.escape(str(where)) if Path(where).is_file() else None
    pattern = literal or str(where)
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    found = [path for path in paths if path.name.endswith((".nii", ".nii.gz")) and path.is_file()]
    if not found:
        found = in_folder(Path(where)) if Path(where).is_dir() else [path for path in paths if holds_dicom(path, deep="**" not in pattern)]
    if not found:
        raise ValueError(
            f"{argument} must be a folder of .nii or .nii.gz files or of DICOM folders, or a quoted glob that finds some, got {where}"
            f"{'' if Path(where).exists() or glob.has_magic(str(where)) else ', which is not there'}"
        )
    named = [(stem(path), path) for path in found]
    if literal or not _WILD.search(pattern):
        return named
    # Every second piece of the pattern is a wildcard: it becomes a group, whose text is the name.
    pieces = _WILD.split(pattern)
    group = {"**/": "(?:(.*)/)?", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    shape = re.compile("".join(group.get(p, f"({p.replace('[!', '[^')})") if n % 2 else re.escape(p) for n, p in enumerate(pieces)))
    texts = [shape.fullmatch(str(path)) for path in found]
    stars = ["_".join(filter(None, text.groups())).replace("/", "_") if text else "" for text in texts]
    return [(_cut(star) or name, path) for star, (name, path) in zip(stars, named, strict=True)]


def stem(path: Path) -> str:
    """The name of a NIfTI or DICOM file without its ending, or of a folder."""
    return path.name if path.is_dir() else _cut(path.name)


def _cut(name: str) -> str:
    return re.sub(r"\.(nii(\.gz)?|(?i:dcm|dicom|ima))$", "", name)


def _bare(name: str, endings: int = 1) -> str:
    """A name without up to so many of its endings."""
    for _ in range(endings):
        name = SUFFIX.sub("", name)
    return name


class Matched(NamedTuple):
    """Files of two kinds that belong together by name.

    Attributes:
        pairs: the name that they share, the first's file, the second's.
        first: what is left of the first, names and files.
        second: what is left of the second.
    """

    pairs: list[tuple[str, Path, Path]]
    first: list[tuple[str, Path]]
    second: list[tuple[str, Path]]


def match_names(first: list[tuple[str, Path]], second: list[tuple[str, Path]], endings: int = 1) -> Matched:
    """Match files one to one by name, the fewest endings dropped first.

    Args:
        first: names and files.
        second: names and files.
        endings: how many endings (see `SUFFIX`) may be dropped from either name.
    """
    pairs: list[tuple[str, Path, Path]] = []
    for drop_first, drop_second in sorted(product(range(endings + 1), repeat=2), key=sum):
        by_first, by_second = defaultdict(list), defaultdict(list)
        for name, path in first:
            by_first[_bare(name, drop_first)].append((name, path))
        for name, path in second:
            by_second[_bare(name, drop_second)].append((name, path))
        met = {
            name: (by_first[name][0], by_second[name][0]) for name in by_first if len(by_first[name]) == len(by_second.get(name, ())) == 1
        }
        pairs += [(name, one[1], other[1]) for name, (one, other) in met.items()]
        first = [file for file in first if file not in [pair[0] for pair in met.values()]]
        second = [file for file in second if file not in [pair[1] for pair in met.values()]]
    return Matched(pairs, first, second)


def _pair(images: list[tuple[str, Path]], labels: list[tuple[str, Path]]) -> list[Source]:
    """Match names; every file must find exactly one partner."""
    matched = match_names(images, labels)
    cases = [Source(*pair) for pair in matched.pairs]
    twice = [name for name, n in Counter(case.name for case in cases).items() if n > 1]
    if matched.first or matched.second or twice:
        raise ValueError(
            "images and labels must match one to one by name, got\n"
            f"  images without exactly one label: {', '.join(path.name for _, path in matched.first) or 'none'}\n"
            f"  labels without exactly one image: {', '.join(path.name for _, path in matched.second) or 'none'}\n"
            f"  names that stand for two cases: {', '.join(twice) or 'none'}\n"
            f"{GLOBS}"
        )
    return sorted(cases)


def _listed(path: Path) -> list[Source]:
    try:
        entries = json.loads(path.read_text())["training"]
        files = [(entry["image"], entry.get("label")) for entry in entries]
        known = [(path.parent / image, path.parent / label if label else None) for image, label in files]
    except OSError as error:
        raise ValueError(f"datalist must be a readable JSON file, got {path} ({error})") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'datalist must hold "training": [{{"image": …, "label": …}}, …], one file each, got {path} ({error!r}); '
            "an nnU-Net folder is given as --images imagesTr --labels labelsTr"
        ) from error
    names = [stem(image) for image, _ in known]
    if len(set(names)) < len(names):  # one folder a case: imaging.nii.gz in each
        names = [_cut(Path(image).as_posix().lstrip("./")).replace("/", "_") for image, _ in files]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice or not names:
        raise ValueError(f"datalist must name at least one image and none twice, got {', '.join(twice) or 'an empty list'} in {path}")
    return [Source(name, image, label) for name, (image, label) in zip(names, known, strict=True)]

"""`gpu-synth synthesize`: CTs and organ masks as files become CTs with tumours, labels, instance maps and plans, and a data card.

A volume is a function of what its files hold, the preset, the seed and its uid, and the uid of the case's name and the variant's number:
whatever the order, the number of processes, and how often it was stopped. A run that was interrupted is repeated with the same command.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from gpu_synth import presets
from gpu_synth.conform import MOST_LABELS
from gpu_synth.files import check_folder_to_write
from gpu_synth.manifest import load_manifest
from gpu_synth.sources import Source, find_sources, match_names, stem
from gpu_synth.synthesize.data_card import write_card
from gpu_synth.synthesize.export import Labels, Scan, read_scan
from gpu_synth.synthesize.plan_json import FORMAT
from gpu_synth.synthesize.ranks import Rank, find_device, find_rank, one_thread
from gpu_synth.synthesize.volume import FOLDERS, Job, Maker, claimed, hashes, is_kept, key_of, make, planned, read_record, refuse, uid_of
from gpu_synth.synthesizer import TumorSynthesizer
from gpu_synth.volumes import VolumeError

PRESET = "liver"


class Synthesised(NamedTuple):
    """What a run of `synthesize` came to, in this process.

    Attributes:
        root: The data set's folder.
        made: Names of the volumes that were made.
        kept: Names of those that were there.
        refused: Names and reasons of those that there cannot be.
        card: The data card, where every volume of the list is there or refused; None where other processes are still at work.
    """

    root: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    card: Path | None

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        paths = {"root": str(self.root), "card": None if self.card is None else str(self.card)}
        return {**self._asdict(), **paths, "refused": dict(self.refused)}


def synthesize(
    *,
    out: str,
    images: str | None = None,
    labels: str | None = None,
    datalist: str | None = None,
    data_dir: str | None = None,
    preset: str = PRESET,
    overrides: dict[str, Any] | None = None,
    variants: int = 1,
    seed: int = 0,
    organ_labels: tuple[int, ...] = (1,),
    tumor_label: int = 2,
    real_tumor_labels: tuple[int, ...] = (),
    plan: str | None = None,
    device: str = "auto",
    backend: str = "auto",
    rank: int | None = None,
    world_size: int | None = None,
    card: bool = False,
) -> Synthesised:
    """Write CTs with synthetic tumours as NIfTI: each on its own grid, its own header and dtype, no voxel changed that no tumour reaches.

    Args:
        out: Folder to write: images, labels, instances, plans, records, and the data card.
        images: Folder of NIfTI CTs, a quoted glob, or a file.
        labels: The same for the organ's masks; matched to the images by name, each on its image's grid.
        datalist: Instead of both, a Decathlon-style dataset.json.
        data_dir: Instead, scans from gpu-synth prepare, on their spacing.
        preset: What the tumours are drawn from: liver, liver-hu2022 (as published), liver-growth, pancreas, kidney, or a YAML file.
        overrides: Fields of the preset and their new values, such as count: [2, 4]; of an unknown one, the message lists them all.
        variants: Volumes of each case, each with other tumours.
        seed: Key of all randomness; the same seed gives the same files.
        organ_labels: Values of the masks that are the organ.
        tumor_label: Value that synthetic tumours get; masks that use it already are refused.
        real_tumor_labels: Values of the masks that are tumour already: they stay, and no lesion is put there.
        plan: Plan to render instead of drawing one: a copy, under another name, of a file in plans, edited. Its scan is found by the
            case's name; the volume is named as the plan's file.
        device: Where to work: auto, cpu, cuda, cuda:1 and so on. auto takes the GPUs there are, in turn by process.
        backend: torch, or cupy for kernels on a GPU; auto takes the fastest there is.
        rank: Number of this process, from 0, of several that share the work; torchrun's and SLURM's variables say it by themselves.
        world_size: How many processes there are.
        card: Write the data card of what lies in out, and nothing else.

    Returns:
        What was made, kept and refused in this process.

    Raises:
        ValueError: An argument is out of range, or arguments do not go together; nothing was written.
        OSError: The folder cannot be written; what was finished before is kept.
    """
    root = check_folder_to_write("out", out)
    _check_no_curriculum(overrides or {})
    if card:
        _check_alone(images, labels, datalist, data_dir, plan)
        return _only_card(root)
    who, what = find_rank(rank, world_size), _labels(organ_labels, real_tumor_labels, tumor_label)
    where = find_device(device, who.local)
    synth = TumorSynthesizer(presets.get(preset, **(overrides or {})), prob=1.0, seed=seed, backend=backend, scope="volume")
    maker = Maker(synth, what, where, root)
    maker.recipe()  # refuses a backend that cannot work there
    sources = _sources(images, labels, datalist, data_dir)
    _check_apart(root, sources)
    if plan is None:
        jobs = _jobs(sources, variants)
    else:
        _check_drawn_by_plan(preset, overrides, variants, seed)
        jobs = [_edited_job(Path(plan), sources, maker)]
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    made, kept, refused = _run(who.share(jobs), maker)
    path = write_card(root, read_all(root), who.number) if all(_is_of_this_run(job, maker) for job in jobs) else None
    result = Synthesised(root, made, kept, refused, path)
    _print(result, who, len(jobs))
    return result


def _is_of_this_run(job: Job, maker: Maker) -> bool:
    """Whether a volume has its record, and not an earlier run's with other settings, which another process is about to replace."""
    record = read_record(maker.root, job.name)
    return record is not None and (job.edited is not None or record["recipe"] == maker.recipe())


def _only_card(root: Path) -> Synthesised:
    """Write the card of what is there."""
    found = read_all(root)
    refused = {record["name"]: record["refused"] for record in found if "refused" in record}
    kept = tuple(record["name"] for record in found if record["name"] not in refused)
    result = Synthesised(root, (), kept, tuple(refused.items()), write_card(root, found))
    _print(result, Rank(), len(found))
    return result


def read_all(root: Path) -> list[dict[str, Any]]:
    """All records of a data set, in order of name.

    Raises:
        ValueError: There is none.
    """
    names = sorted(path.stem for path in (root / FOLDERS[-1]).glob("*.json"))
    records = [record for name in names if (record := read_record(root, name))]
    if not records:
        raise ValueError(f"out must be a folder that gpu-synth synthesize wrote, got {root} without a record; leave out --card to begin")
    return records


def _run(jobs: Sequence[Job], maker: Maker) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Make volumes, case by case; one that there cannot be is refused, and the others go on."""
    made, kept, refused, recipe = list[str](), list[str](), list[tuple[str, str]](), maker.recipe()
    with one_thread(), Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("synthesising", total=len(jobs))
        for source, of_case in groupby(jobs, lambda job: job.source):
            scan: Scan | None = None
            sources, key = list[dict[str, str]](), ""
            for job in of_case:
                try:
                    sources = sources or hashes(source)
                    key = key_of(job, recipe, sources)
                    if is_kept(maker.root, job, key):
                        kept.append(job.name)
                    else:
                        scan = scan or read_scan(source, maker.labels)
                        with claimed(maker.root, job.name):
                            make(job, scan, maker, key, sources)
                        made.append(job.name)
                except (VolumeError, MemoryError, torch.OutOfMemoryError) as error:
                    why = str(error) if isinstance(error, VolumeError) else f"{source.image}: not enough memory ({error})"
                    refuse(job, maker, key, sources, why)
                    refused.append((job.name, why))
                progress.update(task, advance=1, description=f"synthesised {escape(job.name)}")
    return tuple(made), tuple(kept), tuple(refused)


def _jobs(sources: Sequence[Source], variants: int) -> list[Job]:
    """Every volume of every case, in order of name."""
    if variants < 1:
        raise ValueError(f"variants must be 1 or more, got {variants}")
    jobs = [
        Job(source, variant, f"{source.name}_v{variant}", uid_of(source.name, variant))
        for source in sorted(sources)
        for variant in range(variants)
    ]
    by_uid = {job.uid: job for job in jobs}
    for job in jobs:
        if (other := by_uid[job.uid]) != job:  # once in a thousand lists of a million volumes
            raise ValueError(f"cases must have names that hash apart, got {job.name} and {other.name}; rename one")
    return jobs


def _edited_job(path: Path, sources: Sequence[Source], maker: Maker) -> Job:
    """The one volume of an edited plan; its scan is read here, to refuse wrong fields before anything is written."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"plan must be a JSON file from plans, edited, got {path} ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"plan must be JSON of format {FORMAT!r}, as gpu-synth synthesize writes it into plans, got {path}")
    named = [source for source in sources if source.name == document.get("case") or len(sources) == 1]
    if not named:
        raise ValueError(f"images must hold the plan's case {document.get('case')!r}, got {', '.join(s.name for s in sources)}")
    record = read_record(maker.root, path.stem)
    if record and not record["edited"]:
        raise ValueError(
            f"plan must have a name of its own, got {path}, and {maker.root} holds the volume {path.stem} as it was drawn; "
            f"copy it: cp {path} {path.stem}-edited.json"
        )
    if not isinstance(uid := document.get("uid"), int):
        raise ValueError(f"uid of a plan must stay as it was written, a whole number, got {uid!r}; copy it from plans")
    job = Job(named[0], None, path.stem, uid, document)
    planned(job, read_scan(job.source, maker.labels), maker)
    return job


def _sources(images: str | None, labels: str | None, datalist: str | None, data_dir: str | None) -> list[Source]:
    """The cases, whichever way they are given."""
    if data_dir is not None:
        if images is not None or labels is not None or datalist is not None:
            raise ValueError(f"data_dir must be given alone, got it beside {images=}, {labels=}, {datalist=}; leave these out")
        manifest = load_manifest(data_dir)
        return [Source(case.name, manifest.root / case.image, manifest.root / case.label) for case in manifest.cases]
    if images is not None and labels is not None and Path(images).is_file() and Path(labels).is_file() and images != labels:
        image, label = Path(images), Path(labels)
        matched = match_names([(stem(image), image)], [(stem(label), label)]).pairs
        return [Source(*pair) for pair in matched] or [Source(stem(image), image, label)]
    return find_sources(images, labels, datalist)


def _labels(organ_labels: Iterable[int], real_tumor_labels: Iterable[int], tumor_label: int) -> Labels:
    organ, real = tuple(organ_labels), tuple(real_tumor_labels)
    if not organ or len({*organ, *real}) < len(organ) + len(real) or not all(0 < value < MOST_LABELS for value in (*organ, *real)):
        raise ValueError(
            f"organ_labels must be whole numbers from 1, at least one, and none of them real_tumor_labels, got {organ} and {real}"
        )
    if tumor_label in organ or not 0 < tumor_label < MOST_LABELS:
        raise ValueError(f"tumor_label must be a whole number from 1 and none of organ_labels, got {tumor_label} and {organ}; 2 is usual")
    return Labels(organ, real, tumor_label)


def _check_alone(*others: str | None) -> None:
    if any(other is not None for other in others):
        raise ValueError("card must be given with out alone, got scans or a plan too; the card is written after them anyway")


def _check_no_curriculum(overrides: dict[str, Any]) -> None:
    """Refuse what a run of samples has, and files do not."""
    if given := [name for name in ("curriculum_samples", "size_prob_start") if name in overrides]:
        raise ValueError(f"{given[0]} must be left out, got {overrides[given[0]]}; files are of no run that begins: give size_prob")


def _check_apart(root: Path, sources: Sequence[Source]) -> None:
    """Refuse to take what was made as what is to be altered."""
    for source in sources:
        if (root / FOLDERS[0]).resolve() in source.image.resolve().parents:
            raise ValueError(f"out must be another folder than the scans', got {root}, which holds {source.image}; name another")


def _check_drawn_by_plan(preset: str, overrides: dict[str, Any] | None, variants: int, seed: int) -> None:
    """Refuse what a plan decides."""
    given = {"preset": preset != PRESET, "overrides": bool(overrides), "variants": variants != 1, "seed": seed != 0}
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(f"{names[0]} must be left out where plan is given, got both; a plan has all that is drawn")


def _print(result: Synthesised, who: Rank, total: int) -> None:
    console = Console()
    for name, why in result.refused:
        console.print(f"[red]refused[/red] {escape(name)}: {escape(why)}", soft_wrap=True)
    done = f"{len(result.made) + len(result.kept)} volumes in {escape(str(result.root))} ({len(result.kept)} as before)"
    share = f"rank {who.number} of {who.world} ({who.told_by}), of {total} volumes: " if who.world > 1 else ""
    console.print(f"{share}{done}, {len(result.refused)} refused", soft_wrap=True)
    console.print(
        f"data card: {escape(str(result.card))}"
        if result.card
        else "the data card is written by the last rank to finish; if one will not, by gpu-synth synthesize --card with the same --out",
        soft_wrap=True,
    )

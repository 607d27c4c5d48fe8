"""One volume with synthetic tumours: what it depends on, whether it is there already, and how it is made.

A volume `NAME` of a data set is `images/NAME.nii.gz`, `labels/NAME.nii.gz`, `instances/NAME.nii.gz`, `plans/NAME.json` and, written last,
`records/NAME.json`: what it was made from, and what came of it. A volume without its record is not there.
"""

import hashlib
import json
import os
import platform
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gpu_synth import __version__
from gpu_synth.files import content_sha256
from gpu_synth.kernels._launch import resolve
from gpu_synth.lesion_plan import LesionPlan
from gpu_synth.manifest import write_json
from gpu_synth.plan_base import Plan
from gpu_synth.sources import Source
from gpu_synth.synthesize.export import ORGAN, Labels, Scan, records_in_file, render_scan, write_scan
from gpu_synth.synthesize.plan_json import plan_from_json, plan_to_json
from gpu_synth.synthesizer import TumorSynthesizer
from gpu_synth.volumes import VolumeError

FORMAT = "gpu-synth volume 1"
FOLDERS = ("images", "labels", "instances", "plans", "records")
UID_BITS = 52  # whole numbers that every reader of JSON keeps


class Job(NamedTuple):
    """A volume to be made.

    Attributes:
        source: The case's files.
        variant: Which of the case's volumes; None of an edited plan.
        name: Of its files.
        uid: Its ordinal: with the seed, it decides what is drawn.
        edited: The edited plan, as it was read.
    """

    source: Source
    variant: int | None
    name: str
    uid: int
    edited: dict[str, Any] | None = None


class Maker(NamedTuple):
    """How volumes are made.

    Attributes:
        synth: What draws and renders.
        labels: What the values of masks are.
        device: Where.
        root: The data set's folder.
    """

    synth: TumorSynthesizer
    labels: Labels
    device: torch.device
    root: Path

    def recipe(self) -> dict[str, Any]:
        """What every volume depends on, beside its sources and uid."""
        recipe: dict[str, Any] = {
            "gpu_synth": __version__,
            "preset": asdict(self.synth.preset),
            "preset_digest": self.synth.preset.digest(),
            "seed": self.synth.seed,
            "organ_labels": self.labels.organ,
            "real_tumor_labels": self.labels.real_tumor,
            "tumor_label": self.labels.synthetic,
            "backend": resolve(self.synth.backend, self.device),
            "device": self.device.type,
        }
        plain: dict[str, Any] = json.loads(json.dumps(recipe))
        return plain


def uid_of(case: str, variant: int) -> int:
    """A case's ordinal: of its name and variant alone, so that it is the same in any list, order and number of processes."""
    return int.from_bytes(hashlib.sha256(f"{case}\n{variant}".encode()).digest()[:8], "big") >> (64 - UID_BITS)


def hashes(source: Source) -> list[dict[str, str]]:
    """What a case's files hold.

    Raises:
        VolumeError: One of them cannot be read.
    """
    found = []
    for path in (source.image, source.label):
        if path is not None and path.is_file():
            try:
                found.append({"file": path.name, "sha256": content_sha256([path])})
            except OSError as error:
                raise VolumeError(f"{path}: cannot be read ({error.strerror}); let this user read it, or copy it again") from error
    return found


def key_of(job: Job, recipe: dict[str, Any], sources: Sequence[dict[str, str]]) -> str:
    """Everything a volume depends on, as one hash; where the files lie is not among it."""
    on = [FORMAT, job.name, job.uid, job.edited, recipe, [source["sha256"] for source in sources]]
    return hashlib.sha256(json.dumps(on, sort_keys=True).encode()).hexdigest()


def files_of(root: Path, name: str) -> dict[str, Path]:
    """A volume's files."""
    return {folder: root / folder / f"{name}{'.nii.gz' if folder in FOLDERS[:3] else '.json'}" for folder in FOLDERS}


def read_record(root: Path, name: str) -> dict[str, Any] | None:
    """A volume's record, as far as there is a whole one."""
    try:
        record = json.loads(files_of(root, name)["records"].read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def is_kept(root: Path, job: Job, key: str) -> bool:
    """Whether an earlier run finished a volume, and nothing that it depends on has changed."""
    record = read_record(root, job.name)
    if record is None or record["key"] != key or "refused" in record:
        return False
    files = files_of(root, job.name)
    return all(files[what].is_file() and files[what].stat().st_size == size for what, size in record["bytes"].items())


@contextmanager
def claimed(root: Path, name: str) -> Iterator[None]:
    """Keep other runs off a volume while it is made: files of two runs under one name would be labels of another image.

    The claim is a lock on the record's `.partial`; it goes with the process that holds it, however that ends.

    Raises:
        ValueError: Another run is making it.
    """
    record = files_of(root, name)["records"]
    partial = record.with_name(f"{record.name}.partial")
    with partial.open("ab") as stream:
        if not _lock(stream.fileno(), partial):
            raise ValueError(
                f"out must be written by one run at a time, got {root}, where another is making {name}; wait until it has ended"
            )
        try:
            yield
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _lock(descriptor: int, path: Path) -> bool:
    """Whether a file is this process's alone; taken to be, where the file system or Windows has no such locks."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())  # else its holder has just ended, and given it its name


def discard(root: Path, name: str) -> None:
    """Take away what an earlier run made of a volume and is no longer true, the record first."""
    for path in reversed(files_of(root, name).values()):
        path.unlink(missing_ok=True)


def refuse(job: Job, maker: Maker, key: str, sources: Sequence[dict[str, str]], why: str) -> None:
    """Record why there is no volume."""
    discard(maker.root, job.name)
    record = {**_head(job, key, sources, maker), "refused": why}
    write_json(files_of(maker.root, job.name)["records"], record)


def make(job: Job, scan: Scan, maker: Maker, key: str, sources: Sequence[dict[str, str]]) -> None:
    """Plan, render and write a volume, its record last.

    Raises:
        VolumeError: No lesion found a place.
    """
    plan = planned(job, scan, maker)
    out, box = render_scan(maker.synth, scan, plan, maker.device)
    came = {record["lesion"]: _without(record, "lesion", "uid") for record in records_in_file(out, scan, box)}
    if not came:
        raise VolumeError(
            f"{scan.mask.path}: must hold an organ with room for a lesion, got one of {scan.organ_ml:g} ml in which none found a place; "
            "try another --seed, or smaller lesions"
        )
    discard(maker.root, job.name)
    files = files_of(maker.root, job.name)
    document = {**_of_scan(job, scan, maker), **plan_to_json(plan, scan.in_file)}
    asked = {lesion["lesion"]: lesion for lesion in document["lesions"]}
    changed = write_scan(scan, out, box, maker.labels, [files[folder] for folder in FOLDERS[:3]])
    write_json(files["plans"], document)
    part = tuple(slice(*ends) for ends in box)
    organ_hu = out.healthy[0, 0].cpu().numpy()[scan.label[part] == ORGAN]
    record = {
        **_head(job, key, sources, maker),
        "bytes": {folder: files[folder].stat().st_size for folder in FOLDERS[:4]},
        "grid": document["grid"],
        "dtype": str(scan.image.numbers.dtype.newbyteorder("=")),
        "organ_ml": scan.organ_ml,
        "organ_hu": round(float(np.nanmean(organ_hu)), 2),
        "noise_hu": round(float(plan.noise_hu[0]), 2) if isinstance(plan, LesionPlan) else None,
        "cirrhotic": bool(plan.cirrhosis is not None and (plan.cirrhosis > 0).any()) if isinstance(plan, LesionPlan) else False,
        "changed_vox": changed,
        "tumor_ml": round(sum(lesion["volume_mm3"] for lesion in came.values()) / 1000, 4),
        "lesions": [{"lesion": number, "asked": asked[number], "came": lesion} for number, lesion in came.items()],
        "notes": [*scan.notes, *(f"lesion {number} left no voxel" for number in asked if number not in came)],
    }
    write_json(files["records"], record)


def _without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def planned(job: Job, scan: Scan, maker: Maker) -> Plan:
    """Draw a volume's plan, or read the edited one.

    Raises:
        ValueError: The edited one is of another scan, or has wrong fields.
    """
    if job.edited is None:
        image, label = (tensor.to(maker.device) for tensor in scan.tensors(scan.box))
        return maker.synth.plan(image, label, scan.spacing_mm, torch.tensor([job.uid])).to("cpu")
    plan = plan_from_json(job.edited, scan.in_file, scan.in_box)
    grid = _of_scan(job, scan, maker)["grid"]
    if job.edited.get("grid") != grid:
        raise ValueError(f"plan must be of this scan, whose grid is {grid}, got one of {job.edited.get('grid')}; name its own CT and mask")
    return plan


def _of_scan(job: Job, scan: Scan, maker: Maker) -> dict[str, Any]:
    """What a plan's file says beside the plan."""
    grid = {
        "shape_vox": list(scan.image.numbers.shape),
        "spacing_mm": [round(mm, 5) for mm in scan.image.volume.spacing_mm],
        "axes": scan.image.axes,
        "planned_ras_vox": [list(ends) for ends in scan.box],
    }
    drawn = {"preset": maker.synth.preset.name, "preset_digest": maker.synth.preset.digest()}
    if job.edited is not None:
        drawn = {name: job.edited[name] for name in drawn if name in job.edited}
    return {"case": job.source.name, "variant": job.variant, **drawn, "grid": grid}


def _head(job: Job, key: str, sources: Sequence[dict[str, str]], maker: Maker) -> dict[str, Any]:
    """What every record begins with."""
    recipe = maker.recipe()
    if job.edited is not None:  # what its preset was is the plan's to say
        recipe |= {name: job.edited.get(name) for name in ("preset", "preset_digest", "seed")}
    return {
        "format": FORMAT,
        "name": job.name,
        "case": job.source.name,
        "variant": job.variant,
        "uid": job.uid,
        "edited": job.edited is not None,
        "key": key,
        "sources": list(sources),
        "recipe": recipe,
        "versions": {
            "python": platform.python_version(),
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
            "cpu": torch.backends.cpu.get_cpu_capability(),  # its vector instructions: others round otherwise
            **{name: version(name) for name in ("torch", "numpy", "scipy", "nibabel")},
        },
    }

"""A plan as JSON that people edit: each lesion with its figures, and beside them, packed, every number that rendering needs.

An object has `scan`, figures of the whole scan, and `lesions`, one object a lesion. What is changed there is changed in the plan by
`Plan.edit`; a lesion that is taken out of the list is not rendered. What nobody touched comes from `exact`, to the bit. All else tells
what the plan is of, and must stay as it was written. `centre_vox` is a voxel of the CT's file, counted from 0; `radii_mm` lie along right,
anterior, superior.
"""

import base64
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from gpu_synth.lesion_plan import NAMES, OUTLINES, LesionPlan
from gpu_synth.plan import TumorPlan
from gpu_synth.plan_base import Plan

FORMAT = "gpu-synth plan json 1"
Move = Callable[[Sequence[float]], Sequence[float]]
# what of a plan is figures of the whole scan; and of a lesion what `edit` takes: tensors or traits
_SCAN = {
    TumorPlan: (
        *("contrast_hu", "edge_sigma_mm", "grain_sigma_mm", "density_sigma_mm"),
        *("density_scale", "density_offset", "texture_gain"),
    ),
    LesionPlan: ("organ_hu", "noise_hu", "cirrhosis", "foreign_hu"),
}
_LESION = {TumorPlan: ("centre_vox", "radii_mm"), LesionPlan: ("centre_vox", *(name for name in NAMES if name not in OUTLINES))}
_TOLD = {TumorPlan: ("lesion", "base_radius_mm"), LesionPlan: ("lesion", "kind", "near", "semi_axes_mm", *OUTLINES)}


def plan_to_json(plan: Plan, in_file: Move = tuple) -> dict[str, Any]:
    """Describe a plan of one sample. Reads the device.

    Args:
        plan: The plan.
        in_file: From a point of the plan's whole to one that people know, such as a voxel of the file.

    Returns:
        What `json.dump` takes.

    Raises:
        ValueError: The plan is of several samples.
    """
    if len(plan) != 1:
        raise ValueError(f"plan must be of one sample, got {len(plan)}; write them one by one: plan[n]")
    kind = type(plan)
    names = [*_TOLD[kind], *_LESION[kind]]
    lesions = [{name: record[name] for name in names if name in record} for record in plan.to_records()]
    for lesion in lesions:
        lesion["centre_vox"] = [float(at) for at in in_file(lesion["centre_vox"])]
    tensors = plan.tensors()
    return {
        "format": FORMAT,
        "kind": kind.__name__,
        "uid": int(plan.uid[0]),
        "seed": plan.seed,
        "scan": {name: tensors[name][0].tolist() for name in _SCAN[kind] if name in tensors},
        "lesions": _plain(lesions),
        "exact": _packed(plan),
    }


def plan_from_json(document: Any, in_file: Move = tuple, in_whole: Move = tuple) -> Plan:
    """Read what `plan_to_json` wrote, edited or not, onto the CPU.

    Args:
        document: What `json.load` gives; further keys are the caller's.
        in_file: As it was written with.
        in_whole: The way back.

    Raises:
        ValueError: It is no plan, or something was changed that cannot be.
    """
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ValueError(f"plan must be JSON of format {FORMAT!r}, as gpu-synth synthesize writes it into plans, got another")
    if missing := [name for name in ("kind", "uid", "seed", "scan", "lesions", "exact") if name not in document]:
        raise ValueError(f"plan must have {missing[0]!r}, got {', '.join(document)}; copy it from the plan as it was written")
    plan = _unpacked(document["exact"])
    written = plan_to_json(plan, in_file)
    for name in ("kind", "uid", "seed"):
        if document[name] != written[name]:
            raise ValueError(f"{name} of a plan must stay {written[name]!r}, got {document[name]!r}; draw another plan for another one")
    edits = _scan_edits(plan, document["scan"], written["scan"])
    edits |= _lesion_edits(plan, document["lesions"], written["lesions"], in_whole)
    return plan.edit(**edits) if edits else plan


def _scan_edits(plan: Plan, given: Any, written: dict[str, Any]) -> dict[str, Any]:
    """Tensors of the whole scan that were changed."""
    _check_names("scan", given, written, written)
    edits = {}
    for name, old in written.items():
        if (value := given.get(name, old)) != old:
            edits[name] = torch.tensor([_numbers(name, value, old)])
    return edits


def _lesion_edits(plan: Plan, given: Any, written: list[dict[str, Any]], in_whole: Move) -> dict[str, Any]:
    """Tensors and traits `(1, slots, …)` of lesions that were changed, and which lesions are left."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(lesion, Mapping) for lesion in given):
        raise ValueError(f"lesions must be a list of objects, got {given!r}"[:300])
    known = {lesion["lesion"]: lesion for lesion in written}
    numbers = [lesion.get("lesion") for lesion in given]
    for number in numbers:
        if number not in known or numbers.count(number) > 1:
            raise ValueError(
                f"lesion must be one of {', '.join(map(str, known))}, each once, got {number!r}; take some out or change them; "
                "another --seed draws others"
            )
    now, active, edits = plan.tensors(), plan.active.clone(), dict[str, Any]()
    kind = type(plan)
    if gone := [number - 1 for number in known if number not in numbers]:
        active[0, gone] = False
        edits["active"] = active
    for lesion in given:
        what, old = f"lesion {lesion['lesion']}", known[lesion["lesion"]]
        _check_names(what, lesion, old, [name for name in old if name in _LESION[kind]])
        for name, value in lesion.items():
            if value == old[name]:
                continue
            if name not in _LESION[kind]:
                raise ValueError(f"{name} of {what} must stay {old[name]!r}, got {value!r}; {_editable(kind)} can be changed")
            new = _numbers(f"{name} of {what}", value, old[name])
            if name not in edits:
                edits[name] = now[name].clone() if name in now else plan.lesion[..., NAMES[name]].clone()  # type: ignore[attr-defined]
            row = torch.tensor(_inside(what, new, in_whole, plan.whole_vox) if name == "centre_vox" else new)
            edits[name][0, lesion["lesion"] - 1] = row if edits[name].is_floating_point() else row.round().to(edits[name].dtype)
    return edits


def _check_names(what: str, given: Any, known: Mapping[str, Any], editable: Any) -> None:
    """Refuse fields that a plan does not have, and name the nearest."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be an object of {', '.join(known)}, got {given!r}")
    for name in given:
        if name not in known:
            close = get_close_matches(str(name), list(known), n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{what} must hold fields among {', '.join(editable)}, got {name!r}{hint}")


def _numbers(name: str, value: Any, old: Any) -> Any:
    """A number, or as many as there were."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    like = old if isinstance(old, list) else [old]
    wrong = len(several) != len(like) or isinstance(value, Sequence) != isinstance(old, list)
    if wrong or not all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in several):
        raise ValueError(f"{name} must be {'a number' if not isinstance(old, list) else f'{len(old)} numbers'}, got {value!r}")
    return [float(part) for part in several] if isinstance(old, list) else float(value)


def _inside(what: str, at: Sequence[float], in_whole: Move, whole_vox: Sequence[int]) -> Sequence[float]:
    """A point in the plan's whole."""
    point = in_whole(at)
    if not all(-0.5 <= x < n - 0.5 for x, n in zip(point, whole_vox, strict=True)):
        raise ValueError(f"centre_vox of {what} must lie where the plan was made, in the box around the organ, got {list(at)}")
    return point


def _editable(kind: type[Plan]) -> str:
    return ", ".join(_LESION[kind])


def _plain(value: Any) -> Any:
    """Tuples as lists, as they come back from a file."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _packed(plan: Plan) -> str:
    """What `Plan.save` writes, as text."""
    with tempfile.TemporaryDirectory() as folder:
        plan.save(Path(folder) / "plan")
        return base64.b64encode(zlib.compress((Path(folder) / "plan").read_bytes(), 6)).decode()


def _unpacked(text: Any) -> Plan:
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
    except (ValueError, TypeError, zlib.error) as error:
        raise ValueError(f"exact must be left as it was written, got what cannot be unpacked ({error}); copy it from there") from error
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plan").write_bytes(content)
        return Plan.load(Path(folder) / "plan")

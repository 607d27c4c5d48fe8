"""Every name that is measured, one row each: the kernel families under their own names, then the whole.

A row makes its input and says what it reads; with what it returns, these are the bytes that must move.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor

from gpu_synth import presets
from gpu_synth.bench import effects, feed, host, liver, settings, synthesis
from gpu_synth.bench.case import ORGAN, ORGAN_HU, SEED, SPACING_MM, TUMOUR, Case, Operation, Rows, Setting, patches
from gpu_synth.kernels import (
    blend,
    cirrhosis,
    edge,
    gaussian,
    growth,
    placement,
    plan,
    rng,
    shape,
    texture,
    tissue,
    warp,
)
from gpu_synth.kernels._cells import Box
from gpu_synth.plan import TumorPlan
from gpu_synth.preset_table import parameter_table, slots_of

RNG_BLOCKS = 1 << 17
RADIUS_MM, NOISE_HU, WARP_STRENGTH, CIRRHOSIS_MM, CIRRHOSIS_HU = 8.0, 12.0, 30.0, 0.8, 8.0
SYNTHESIS_TESTS = ("test_identity.py",)
FEED_TESTS = ("trainers/test_bank.py",)
PUBLISHED_TESTS = ("bench/test_published.py",)


class Stages(NamedTuple):
    """What each stage of a render hands to the next, for lesions of class mix in patches that are all organ."""

    plan: TumorPlan
    label: Tensor
    instances: shape.Instances
    soft: edge.Edge
    grain: Tensor


def _stages(device: torch.device, setting: Setting) -> Stages:
    image, label = patches(device, setting)
    drawn = synthesis.synthesizer(replace(setting, size_class="mix")).plan(image, label, SPACING_MM, uid=_uids(device, setting))
    assert isinstance(drawn, TumorPlan)
    instances = shape.instance_map(*_lesions(drawn), label[:, 0], ORGAN, backend=_backend(setting), spacing_mm=SPACING_MM)
    soft = edge.edge(instances, drawn.edge_sigma_mm, drawn.edge_bound_vox(), _backend(setting), SPACING_MM)
    grain = texture.texture(*drawn.texture_field(), _everything(setting), soft.changing, _backend(setting))
    return Stages(drawn, label[:, 0], instances, soft, grain)


def _lesions(plan: TumorPlan) -> tuple[Tensor, Tensor, Tensor, tuple[tuple[int, int, int], ...], Tensor]:
    return plan.centre_vox, plan.radii_mm, plan.elastic_mm, plan.boxes_vox(), plan.active


def _backend(setting: Setting) -> str:
    return setting.backend or "torch"


def _uids(device: torch.device, setting: Setting) -> Tensor:
    return torch.arange(setting.samples, device=device)


def _everything(setting: Setting) -> Box:
    i, j, k = setting.whole_vox
    return (0, i), (0, j), (0, k)


def _rng(device: torch.device, setting: Setting) -> Case:
    index = torch.arange(RNG_BLOCKS, device=device).repeat(setting.samples, 1)
    uid = _uids(device, setting)
    return Case(lambda: rng.halfwords(SEED, uid, rng.Purpose.SALT, index, _backend(setting)), (uid, index))


def _plan(device: torch.device, setting: Setting) -> Case:
    preset, uid = presets.published(), _uids(device, setting)
    table, slots, possible = parameter_table(preset, 1.0, device), slots_of(preset), torch.ones_like(uid, dtype=torch.bool)
    return Case(lambda: plan.draw(*table, slots, SEED, uid, possible, _backend(setting)), (table, uid, possible))


def _placement(device: torch.device, setting: Setting) -> Case:
    label, uid = patches(device, setting)[1][:, 0], _uids(device, setting)
    site, extent = placement.Site(ORGAN, TUMOUR, (2, 2, 2)), (0.3, 0.7)
    slots = sum(slots_of(presets.published()))
    return Case(lambda: placement.place(label, site, extent, slots, SEED, uid, _backend(setting)), (label, uid))


def _shape(device: torch.device, setting: Setting) -> Case:
    drawn, label, *_ = _stages(device, setting)
    lesions, rest = _lesions(drawn), (label, ORGAN, (0, 0, 0), _backend(setting), SPACING_MM)
    return Case(lambda: shape.instance_map(*lesions, *rest), (*lesions, label))


def _gaussian(device: torch.device, setting: Setting) -> Case:
    field = torch.rand(setting.samples, *setting.whole_vox, device=device)
    sigma = torch.full((setting.samples, 3), 4.0, device=device)
    return Case(lambda: gaussian.gaussian(field, sigma, (4.0, 4.0, 4.0), _backend(setting)), (field, sigma))


def _edge(device: torch.device, setting: Setting) -> Case:
    drawn, _, instances, *_ = _stages(device, setting)
    sigma, bound = drawn.edge_sigma_mm, drawn.edge_bound_vox()
    return Case(lambda: edge.edge(instances, sigma, bound, _backend(setting), SPACING_MM), (instances, sigma))


def _texture(device: torch.device, setting: Setting) -> Case:
    drawn, _, _, soft, _ = _stages(device, setting)
    field, (norm, gain) = drawn.texture_field()
    threshold = presets.published().texture_threshold

    def run() -> Tensor:
        known = texture.statistics(field, norm.scale, norm.offset, gain, threshold, _backend(setting))
        return texture.texture(field, known, _everything(setting), soft.changing, _backend(setting))

    return Case(run, (field, norm.scale, norm.offset, gain, soft.changing))


def _blend(device: torch.device, setting: Setting) -> Case:
    drawn, label, instances, soft, grain = _stages(device, setting)
    image = torch.full_like(label, ORGAN_HU, dtype=torch.float32)
    lesions = (instances.number, soft.occupancy, grain, drawn.contrast_hu)

    def run() -> tuple[Tensor, Tensor]:
        blend.blend_(image, label, *lesions, ORGAN, ORGAN, _backend(setting))  # a tumour's number would leave the next run less organ
        return image, label

    return Case(run, (image, label, *lesions))


def _tissue(device: torch.device, setting: Setting) -> Case:
    image, label = (x[:, 0] for x in patches(device, setting))
    noise = rng.halfwords(SEED, _uids(device, setting), rng.Purpose.SALT, torch.arange(image[0].numel() // 8, device=device)[None])
    image = image + noise.view(image.shape) / 1000.0  # uniform over 65 HU, an SD of 19
    return Case(lambda: tissue.tissue(image, label, ORGAN, SPACING_MM, backend=_backend(setting)), (image, label))


class FourLesions(NamedTuple):
    """Noisy patches that are all organ, and four lesions apart from each other."""

    image: Tensor
    label: Tensor
    centre_vox: Tensor
    radius_mm: Tensor
    active: Tensor


def _four_lesions(device: torch.device, setting: Setting) -> FourLesions:
    image, label = (x[:, 0] for x in patches(device, setting))
    image = image + NOISE_HU * torch.randn(image.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    quarters = [(0.25, 0.25, 0.25), (0.75, 0.25, 0.5), (0.25, 0.75, 0.75), (0.75, 0.75, 0.5)]
    centre = (torch.tensor(quarters) * torch.tensor(setting.whole_vox)).expand(setting.samples, -1, -1).to(device)
    radius = torch.full(centre.shape[:2], RADIUS_MM, device=device)
    return FourLesions(image, label, centre, radius, torch.ones_like(radius, dtype=torch.bool))


def _warp(device: torch.device, setting: Setting) -> Case:
    image, label, centre, radius, active = _four_lesions(device, setting)
    lesions = (centre, radius, torch.full_like(radius, WARP_STRENGTH), active)
    return Case(lambda: warp.warp(image, label, *lesions, ORGAN, SPACING_MM, backend=_backend(setting)), (image, label, *lesions))


def _growth(device: torch.device, setting: Setting) -> Case:
    image, label, *lesions = _four_lesions(device, setting)
    centre, radius, active = lesions
    vessel, uid, hu = torch.zeros_like(label), _uids(device, setting), torch.full((setting.samples,), ORGAN_HU, device=device)
    noise, steps, backend = hu * (NOISE_HU / ORGAN_HU), growth.steps_for(RADIUS_MM, SPACING_MM), _backend(setting)

    def run() -> growth.Grown:
        of_organ = (hu, noise, ORGAN, SPACING_MM)
        return growth.growth(image, label, vessel, centre, radius, active, *of_organ, steps, SEED, uid, backend=backend)

    return Case(run, (image, label, vessel, lesions, hu, noise, uid))


def _cirrhosis(device: torch.device, setting: Setting) -> Case:
    """Patches that the organ's surface cuts slantwise, two thirds of them organ."""
    i, j, k = (torch.linspace(0.0, 1.0, n, device=device) for n in setting.whole_vox)
    label = (i[:, None, None] + 0.3 * j[:, None] + 0.2 * k < 0.9).to(torch.uint8).expand(setting.samples, -1, -1, -1).contiguous()
    image = ORGAN_HU * label + 12.0 * torch.randn(label.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    strength, nodule_hu = (torch.full((setting.samples,), value, device=device) for value in (CIRRHOSIS_MM, CIRRHOSIS_HU))
    scans, rest = (image, label, strength, nodule_hu), (ORGAN, SPACING_MM, SEED, _uids(device, setting))
    return Case(lambda: cirrhosis.cirrhosis(*scans, *rest, backend=_backend(setting)), scans)


def _family(name: str, what: str, rows: Rows, make: Callable[[torch.device, Setting], Case]) -> Operation:
    return Operation(name, what, (f"kernels/test_{name}.py",), rows, make)


def _later(module: str, make: str, **options: bool) -> Callable[[torch.device, Setting], Case]:
    """What a module makes that is imported when it is asked for: MONAI and Lightning take seconds."""
    return lambda device, setting: getattr(import_module(f"gpu_synth.bench.{module}"), make)(device, setting, **options)


OPERATIONS = (
    _family("rng", "131 072 Philox blocks a sample", settings.scalars, _rng),
    _family("plan", "28 slots a sample", settings.scalars, _plan),
    _family("placement", "28 slots a sample", settings.fields, _placement),
    _family("shape", "lesions of class mix", settings.fields, _shape),
    _family("gaussian", "σ 4 voxels", settings.fields, _gaussian),
    _family("edge", "soft edges of class mix", settings.fields, _edge),
    _family("texture", "statistics and texture, fresh", settings.fields, _texture),
    _family("blend", "float32 image", settings.fields, _blend),
    _family("tissue", "HU, noise and vessels, float32 image", settings.fields, _tissue),
    _family("warp", "4 lesions of 8 mm, float32 image", settings.fields, _warp),
    _family("growth", "4 lesions of 8 mm, float32 image", settings.fields, _growth),
    _family("cirrhosis", "nodules and surface, float32 image", settings.fields, _cirrhosis),
    _family("crop", "patches out of a packed volume", settings.fields, feed.crops),
    _family("traits", "6 lesions a sample", settings.scalars, liver.traits_case),
    _family("sites", "6 lesions a sample", settings.fields, liver.sites_case),
    _family("lesion", "preset liver, float32 image", settings.fields, liver.lesion_case),
    Operation("synthesis", "plan and render, all organ", SYNTHESIS_TESTS, settings.synthesis, synthesis.whole),
    Operation("synthesis-liver", "plan and render, all organ, preset liver", ("test_lesion_model.py",), settings.liver, synthesis.liver),
    Operation("effects", "plan and render, organ cut by a border", ("test_lesion_model.py",), settings.effects, effects.case),
    Operation("host", "a call without its launches", ("bench/test_host.py",), settings.host, host.case),
    Operation("synthesis-one-core", "the same, one thread", SYNTHESIS_TESTS, settings.one_core, synthesis.one_core),
    Operation("lesions", "the same, small lesions", SYNTHESIS_TESTS, settings.lesions, synthesis.lesions),
    Operation("volume", "the same, lesions per volume kept", SYNTHESIS_TESTS, settings.volume, synthesis.volume),
    Operation("step-share", "training steps that synthesise", SYNTHESIS_TESTS, settings.step_share, _later("training", "step_share")),
    Operation(
        "step-share-64x32x32-float32",
        "training steps that synthesise",
        SYNTHESIS_TESTS,
        settings.host_step_share,
        _later("training", "step_share"),
    ),
    Operation(
        "published",
        "NumPy and SciPy, one core, fresh texture",
        PUBLISHED_TESTS,
        settings.published,
        _later("pipeline", "one_core", banked=False),
    ),
    Operation(
        "published-banked",
        "the same, textures made before",
        PUBLISHED_TESTS,
        settings.published_banked,
        _later("pipeline", "one_core", banked=True),
    ),
    Operation("feed-resident", "patches of scans on the device", FEED_TESTS, settings.resident, feed.resident),
    Operation("feed-disk", "the same, read by workers", FEED_TESTS, settings.from_disk, feed.from_disk),
    Operation("end-to-end", "data loader to model", PUBLISHED_TESTS, settings.end_to_end, _later("pipeline", "end_to_end")),
)

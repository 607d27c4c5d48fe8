"""How nnU-Net's users say what is synthesised: class attributes of a trainer, and an environment variable."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from gpu_synth import TumorSynthesizer, presets
from gpu_synth.presets import Preset

VARIABLE = "nnUNet_tumorSynth"
MARK = "tumor_synth"  # among a fingerprint's intensities: which synthetic tumours it was taken with


def synthesizer(defaults: Mapping[str, Any], axial_axis: int, **fixed: Any) -> TumorSynthesizer:
    """Make the synthesizer of an nnU-Net run.

    Args:
        defaults: Arguments of `TumorSynthesizer`; those of the environment variable `nnUNet_tumorSynth` are laid over them.
        axial_axis: Which axis of nnU-Net's arrays runs across the axial slices; for presets that ask.
        **fixed: Arguments that nobody may change.

    Raises:
        ValueError: The variable is no mapping, or an argument is unknown or out of range.
    """
    text = os.environ.get(VARIABLE, "")
    example = f"{VARIABLE}='{{preset: liver, prob: 0.9}}'"
    try:
        given = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{VARIABLE} must be a YAML mapping, got {text!r} ({why}); for instance {example}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{VARIABLE} must be a YAML mapping, got {text!r}; for instance {example}")
    options = {"preset": "liver", **defaults, **given, **fixed}
    if hasattr(presets.get(str(options["preset"])), "axial_axis"):
        options.setdefault("axial_axis", axial_axis)
    return TumorSynthesizer(**options)


def mark(synth: TumorSynthesizer) -> str:
    """Name what lesions are drawn from, so that a fingerprint and a training that have the same words have the same lesions."""
    preset = synth.preset
    if isinstance(preset, Preset):  # its axis is that of the arrays, which the plans may transpose
        preset = replace(preset, axial_axis=0)
    return f"{preset.name} {preset.digest()}"

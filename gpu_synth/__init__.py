"""Synthetic tumours for healthy CT, made on the training device, fresh at every step.

Importing this package loads neither torch nor anything else heavy: each public name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_synth import presets as presets
    from gpu_synth.plan import TumorPlan as TumorPlan
    from gpu_synth.synthesizer import TumorSynthesizer as TumorSynthesizer

_HOME = {
    "TumorPlan": "gpu_synth.plan",
    "TumorSynthesizer": "gpu_synth.synthesizer",
    "presets": "gpu_synth.presets",
}

__all__ = ["TumorPlan", "TumorSynthesizer", "presets"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gpu_synth' has no attribute {name!r}; public names: {', '.join(__all__)}")
    module = import_module(_HOME[name])
    return module if name == "presets" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What a synthesizer remembers from call to call: which samples it has made, and how many lesions."""

import warnings
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributed import get_rank, get_world_size, is_available, is_initialized
from torch.utils.data import get_worker_info

from gpu_synth.lesion_preset import LesionPreset
from gpu_synth.presets import Preset


class CountingModule(nn.Module):
    """A module that hands out the ordinals of samples, counts what came of them, and can be resumed.

    Its state is a snapshot in `get_extra_state`, not buffers: DDP would broadcast those from rank 0, an average of weights average them.

    Args:
        preset: What is drawn from.
        seed: Key of all randomness.
    """

    def __init__(self, preset: Preset | LesionPreset, seed: int) -> None:
        super().__init__()
        self.preset, self.seed = preset, seed
        self._counter = torch.zeros((), dtype=torch.int64)  # a tensor of the host, so that compiled code counts on
        self._made: Tensor | None = None  # on the device: lesions, skipped samples

    @property
    def lesions(self) -> int:
        """Lesions synthesised by `forward` so far. Waits for the device."""
        return 0 if self._made is None else int(self._made[0])

    @property
    def skipped(self) -> int:
        """Samples that `forward` could not alter so far: no place in the organ, or a tumour already there. Waits for the device."""
        return 0 if self._made is None else int(self._made[1])

    def count(self, made: Int[Tensor, "2"]) -> None:
        """Add lesions made and samples skipped to the counters, without waiting for the device."""
        self._made = made if self._made is None else self._made + made

    def next_uids(self, image: Tensor) -> Tensor:
        """Count on: this rank's share of the next ordinals.

        Raises:
            ValueError: In evaluation mode, which uses no ordinals up, or in a process that counts beside others.
        """
        if not self.training:
            raise ValueError("uid must be given in evaluation mode, got None; name the samples, such as torch.arange(b), or call .train()")
        compiling = torch.compiler.is_compiling()
        if not compiling and get_worker_info() is not None:
            raise ValueError("uid must be given inside a DataLoader worker, got None; each worker would count the same samples")
        rank, world = (get_rank(), get_world_size()) if is_available() and is_initialized() else (0, 1)
        first = self._counter + rank * len(image)
        self._counter += world * len(image)
        if compiling:  # where a counter must not become a number, which were baked in
            return (first + torch.arange(len(image))).to(image.device, non_blocking=True)
        start = int(first)
        return torch.arange(start, start + len(image), device=image.device)

    def get_extra_state(self) -> dict[str, Any]:
        """Snapshot for `state_dict`: what the next call depends on."""
        return {"seed": self.seed, "counter": int(self._counter), "preset": self.preset.name, "preset_digest": self.preset.digest()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on where the snapshot was taken; a preset that differs is kept, and said."""
        self.seed, self._counter = int(state["seed"]), torch.tensor(int(state["counter"]))
        if state["preset_digest"] != self.preset.digest():
            warnings.warn(
                f"the saved synthesizer drew from preset {state['preset']!r} ({state['preset_digest']}), this one draws from "
                f"{self.preset.name!r} ({self.preset.digest()}): tumours will differ; give both the same preset and overrides",
                stacklevel=2,
            )

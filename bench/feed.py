"""What brings patches to the device: the crop alone."""

import math

import torch

from gpu_synth.bench.case import Case, Setting
from gpu_synth.kernels import crop


def crops(device: torch.device, setting: Setting) -> Case:
    """Patches out of a volume a fifth larger along each axis, from places that are aligned to nothing."""
    shape, samples = [n + n // 5 for n in setting.whole_vox], setting.samples
    voxels = math.prod(shape)
    padded = -(-voxels // crop.WORD_VOX) * crop.WORD_VOX
    image, label = (torch.zeros(padded, dtype=dtype, device=device) for dtype in (torch.int16, torch.uint8))
    packed = crop.Packed(
        image, label, torch.zeros(1, dtype=torch.int64, device=device), torch.tensor([shape], dtype=torch.int32, device=device)
    )
    place = torch.tensor([[0, n % 7, n % 5, n % 11] for n in range(samples)], device=device)
    used = samples * math.prod(setting.whole_vox)
    read = [x.new_empty(used) for x in (image, label)]
    return Case(lambda: crop.crop(packed, place, setting.whole_vox, setting.backend or "torch"), (read, place))

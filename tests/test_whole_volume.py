"""A whole abdominal CT of 512 × 512 × 300 in one piece: within 8 GiB. About 10 s on one core.

A process of its own, because the peak of memory is a process's.
"""

import json
import subprocess
import sys

WHOLE_VOLUME = """
import json, resource, time
import torch
from gpu_synth import TumorSynthesizer

torch.set_num_threads(1)
shape, spacing_mm = (512, 512, 300), (0.75, 0.75, 1.5)
i, j, k = (torch.linspace(-1, 1, n) for n in shape)
label = torch.empty(1, 1, *shape, dtype=torch.uint8)
for slab in range(0, 512, 32):  # a liver's size: 19 × 23 × 27 cm, cut by no border
    part = slice(slab, slab + 32)
    label[0, 0, part] = ((i[part] - 0.3) / 0.5)[:, None, None] ** 2 + (j / 0.6)[:, None] ** 2 + (k / 0.6) ** 2 < 1
image = torch.full((1, 1, *shape), 100.0)
start = time.perf_counter()
synth = TumorSynthesizer("liver-hu2022", prob=1.0, scope="volume", class_prob=(0, 0, 0, 0, 1))
new_image, new_label = synth(image, label, spacing_mm, torch.tensor([0]))
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    "lesions": synth.lesions,
    "volume_cm3": (new_label == 2).sum().item() * 0.75 * 0.75 * 1.5 / 1000,
    "changed": (new_image != image).sum().item() * 0.75 * 0.75 * 1.5 / 1000,
    "outside": (new_image[label != 1] != 100).sum().item(),
}))
"""


def test_a_whole_volume_fits_in_8_gib():
    done = subprocess.run([sys.executable, "-c", WHOLE_VOLUME], check=True, capture_output=True, text=True, timeout=300)
    figures = json.loads(done.stdout)
    print(figures)
    assert figures["peak_gib"] < 8
    assert 11 <= figures["lesions"] <= 28
    assert 20 < figures["volume_cm3"] < 1000
    assert figures["volume_cm3"] < figures["changed"] < 10 * figures["volume_cm3"]
    assert figures["outside"] == 0

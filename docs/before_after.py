"""Draw README's first picture: python docs/before_after.py."""

from pathlib import Path

import torch

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.preview.slices import save_png, slices_figure

UID = 17
SPACING_MM = (1.2, 1.2, 2.0)

healthy = phantom(UID, shape=(256, 230, 112), spacing_mm=SPACING_MM)
synth = TumorSynthesizer("liver", prob=1.0, scope="volume", count=(6, 6), size_prob=(0.1, 0.4, 0.4, 0.1), cnr_floor=2.0)
plan = synth.plan(healthy.image, healthy.label, SPACING_MM, uid=torch.tensor([UID]))
out = synth.render(healthy.image, healthy.label, plan)
figure = slices_figure(healthy.image[0, 0], out.image[0, 0], out.label[0, 0], SPACING_MM, slices=1)
save_png(figure, Path(__file__).with_name("before-after.png"))

"""Accelerate (gpu-synth[accelerate]): one line after the prepared loader has moved the batch; state in save_state."""

import torch
from torch.utils.data import DataLoader

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError("Accelerate must be installed, got none; pip install 'gpu-synth[accelerate]'") from error

SPACING_MM = (5.0, 5.0, 5.0)
scans = phantom(range(4), (48, 48, 32), SPACING_MM)  # your own: CT in HU, label with 1 for the organ
samples = [{"image": image, "label": label} for image, label in zip(*scans, strict=True)]

accelerator = Accelerator()
network = torch.nn.Conv3d(1, 3, 3, padding=1)
optimizer = torch.optim.AdamW(network.parameters())
train_loader, val_loader = DataLoader(samples[:3], shuffle=True), DataLoader(samples[3:])
network, optimizer, train_loader, val_loader = accelerator.prepare(network, optimizer, train_loader, val_loader)
synth = TumorSynthesizer(preset="liver", seed=0)  # prob=0.9: one scan in ten stays healthy
accelerator.register_for_checkpointing(synth)  # never prepared: it has nothing to train

for epoch in range(2):
    for batch in train_loader:
        image, label = synth(batch["image"], batch["label"], SPACING_MM)  # <- the line; in HU, so before any scaling
        loss = torch.nn.functional.cross_entropy(network(image / 1000), label[:, 0].long())
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}, {int((label == 2).sum())} voxels of tumour")
    accelerator.save_state("accelerate_loop")
    for batch in val_loader:  # validation is as it was
        accelerator.print(f"validation: {int((batch['label'] == 2).sum())} voxels of tumour")

accelerator.load_state("accelerate_loop")  # a run that goes on makes the tumours to come
accelerator.print(f"{synth.lesions} lesions made")

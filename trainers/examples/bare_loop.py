"""Plain torch: one line after the batch is on the device. Batches are dicts; those of tuples are told below."""

import torch
from torch.utils.data import DataLoader

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom

SPACING_MM = (5.0, 5.0, 5.0)
device = "cuda" if torch.cuda.is_available() else "cpu"
scans = phantom(range(4), (48, 48, 32), SPACING_MM)  # your own: CT in HU, label with 1 for the organ
samples = [{"image": image, "label": label} for image, label in zip(*scans, strict=True)]
train_loader, val_loader = DataLoader(samples[:3], batch_size=1, shuffle=True), DataLoader(samples[3:])

network = torch.nn.Conv3d(1, 3, 3, padding=1).to(device)  # background, organ, tumour
optimizer = torch.optim.AdamW(network.parameters())
synth = TumorSynthesizer(preset="liver", seed=0)  # prob=0.9: one scan in ten stays healthy

for epoch in range(2):
    for batch in train_loader:  # of tuples: for image, label in train_loader
        image, label = batch["image"].to(device), batch["label"].to(device)
        image, label = synth(image, label, SPACING_MM)  # <- the line; in HU, so before any scaling
        loss = torch.nn.functional.cross_entropy(network(image / 1000), label[:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, {int((label == 2).sum())} voxels of tumour")
    torch.save({"network": network.state_dict(), "synth": synth.state_dict()}, "bare_loop.pt")
    with torch.no_grad():  # validation is as it was
        for batch in val_loader:
            image, label = batch["image"].to(device), batch["label"].to(device)
            loss = torch.nn.functional.cross_entropy(network(image / 1000), label[:, 0].long())
            print(f"validation: loss {loss.item():.3f}, {int((label == 2).sum())} voxels of tumour")

synth.load_state_dict(torch.load("bare_loop.pt", weights_only=True)["synth"])  # a run that goes on makes the tumours to come
print(f"{synth.lesions} lesions made")

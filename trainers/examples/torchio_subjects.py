"""TorchIO (gpu-synth[torchio]): a transform of subjects, in the worker processes; a loop of your own around it."""

import torch

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.trainers.torchio import RandomTumor  # says what to install, where TorchIO is not

import torchio as tio  # isort: skip

if __name__ == "__main__":  # worker processes import this file where they are spawned
    affine = torch.diag(torch.tensor([5.0, 5.0, 5.0, 1.0]))
    subjects = [  # your own: tio.ScalarImage("ct.nii.gz"), tio.LabelMap("liver.nii.gz")
        tio.Subject(ct=tio.ScalarImage(tensor=image, affine=affine), liver=tio.LabelMap(tensor=label, affine=affine))
        for image, label in zip(*phantom(range(3), (48, 48, 32), (5.0, 5.0, 5.0)), strict=True)
    ]
    transforms = tio.Compose(
        [
            RandomTumor(TumorSynthesizer(preset="liver", prob=1.0)),  # <- the line; before the intensity is scaled
            tio.RandomFlip(axes=(0, 1, 2)),
            tio.RescaleIntensity(out_min_max=(0, 1), in_min_max=(-175, 250)),
        ]
    )
    loader = tio.SubjectsLoader(tio.SubjectsDataset(subjects, transform=transforms), batch_size=1, num_workers=2)

    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    optimizer = torch.optim.AdamW(network.parameters())
    for epoch in range(2):
        for batch in loader:
            image, label = batch["ct"][tio.DATA], batch["liver"][tio.DATA]
            loss = torch.nn.functional.cross_entropy(network(image), label[:, 0].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}, {int((label == 2).sum())} voxels of tumour")

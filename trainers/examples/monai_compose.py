"""MONAI's Compose: tumours sample by sample, in the worker processes; a loop of your own around it."""

import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, RandFlipd, ScaleIntensityRanged

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.trainers.monai import RandTumord

if __name__ == "__main__":  # worker processes import this file where they are spawned
    scans = phantom(range(3), (48, 48, 32), (5.0, 5.0, 5.0))  # your own: LoadImaged, EnsureChannelFirstd, Orientationd, Spacingd
    affine = torch.diag(torch.tensor([5.0, 5.0, 5.0, 1.0]))
    arrays = [(MetaTensor(image, affine), MetaTensor(label, affine)) for image, label in zip(*scans, strict=True)]
    scale = ScaleIntensityRanged("image", -175, 250, 0, 1, clip=True)
    transforms = Compose(
        [
            RandTumord(("image", "label"), TumorSynthesizer(preset="liver", prob=1.0)),  # <- the line; before the scaling
            scale,
            RandFlipd(("image", "label"), prob=0.5),
        ]
    )
    transforms.set_random_state(seed=0)
    dataset = Dataset([{"image": image, "label": label} for image, label in arrays], transforms)
    loader = DataLoader(dataset, batch_size=1, num_workers=2)

    network = UNet(3, 1, 3, channels=(8, 16), strides=(2,))
    optimizer, loss_of = torch.optim.AdamW(network.parameters()), DiceCELoss(to_onehot_y=True, softmax=True)
    for epoch in range(2):
        for batch in loader:
            loss = loss_of(network(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}, {int((batch['label'] == 2).sum())} voxels of tumour")

"""MONAI's SupervisedTrainer (gpu-synth[monai]): tumours batch by batch on the device; the evaluator keeps the batch as it is."""

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, ValidationHandler
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.trainers.intensity import Window
from gpu_synth.trainers.monai import TumorPrepareBatch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
window = Window(-175.0, 250.0)
scans = phantom(range(4), (48, 48, 32), (5.0, 5.0, 5.0))  # your own: a loader that scales, as by ScaleIntensityRanged
samples = [{"image": window.from_hu(image), "label": label} for image, label in zip(*scans, strict=True)]
network = UNet(3, 1, 3, channels=(8, 16), strides=(2,)).to(device)
optimizer = torch.optim.AdamW(network.parameters())
synth = TumorSynthesizer(preset="liver", seed=0)  # prob=0.9: one scan in ten stays healthy
with_tumors = TumorPrepareBatch(synth, (5.0, 5.0, 5.0), window)  # spacing as the images' affine says, if they have one

evaluator = SupervisedEvaluator(device, DataLoader(Dataset(samples[3:])), network)
saved = {"network": network, "optimizer": optimizer, "synth": synth}
trainer = SupervisedTrainer(
    device=device,
    max_epochs=2,
    train_data_loader=DataLoader(Dataset(samples[:3]), batch_size=1),
    network=network,
    optimizer=optimizer,
    loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
    prepare_batch=with_tumors,  # <- the line
    train_handlers=[ValidationHandler(1, evaluator), CheckpointSaver("monai_engine", saved, save_final=True)],
)
trainer.run()
print(f"{synth.lesions} lesions made in {trainer.state.iteration} steps")

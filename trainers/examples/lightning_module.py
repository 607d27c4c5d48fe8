"""Lightning: a callback; module, data and validation stay as they are."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.trainers.callback import SynthesizeTumors


class Segmentation(pl.LightningModule):
    """Somebody's module, which knows nothing of tumours."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Conv3d(1, 3, 3, padding=1)

    def training_step(self, batch, batch_idx):
        """Work on whatever comes."""
        image, label = batch
        print(f"step {self.global_step}: {int((label == 2).sum())} voxels of tumour")
        return torch.nn.functional.cross_entropy(self.network(image / 1000), label[:, 0].long())

    def validation_step(self, batch, batch_idx):
        """See healthy scans."""
        print(f"validation: {int((batch[1] == 2).sum())} voxels of tumour")

    def configure_optimizers(self):
        """Optimise."""
        return torch.optim.AdamW(self.parameters())


scans = list(zip(*phantom(range(4), (48, 48, 32), (5.0, 5.0, 5.0)), strict=True))  # your own: CT in HU, label with 1 for the organ
# of ten scans one stays healthy: prob=0.9 of the synthesizer
synthesize = SynthesizeTumors(TumorSynthesizer(preset="liver"), image_key=0, label_key=1, spacing_mm=(5.0, 5.0, 5.0))
trainer = pl.Trainer(max_epochs=2, logger=False, callbacks=[synthesize])  # <- the line; its state is in every checkpoint
trainer.fit(Segmentation(), DataLoader(scans[:3]), DataLoader(scans[3:]))

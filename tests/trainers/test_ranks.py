"""Two processes: each its own samples, all of an epoch's, and one total."""

import json
from pathlib import Path

import torch
from tiny_training import Recorder, data_of, trainer_of


class Writer(Recorder):
    """Leave what this rank saw in a file: nothing else comes back from another process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        uids = torch.cat([batch["uid"] for batch in self.seen]).tolist()
        seen = {
            "uids": uids,
            "samples_seen": self.trainer.datamodule.samples_seen,
            "tumor": any(bool((batch["label"] == 2).any()) for batch in self.seen),
        }
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(seen))


def test_two_ranks_share_an_epoch(cache, tmp_path):
    trainer = trainer_of(tmp_path, max_epochs=2, devices=2, strategy="ddp_spawn", limit_val_batches=0)
    trainer.fit(Writer(tmp_path), data_of(cache, samples_per_epoch=8, batch_size=2))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [rank["uids"] for rank in ranks] == [list(range(0, 16, 2)), list(range(1, 16, 2))]
    assert [rank["samples_seen"] for rank in ranks] == [16, 16]
    assert all(rank["tumor"] for rank in ranks)

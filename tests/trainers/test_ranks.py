"""Two processes: each its own samples, all of an epoch's, and one total."""

import json
from pathlib import Path

import torch
from tiny_training import Recorder, data_of, trainer_of

from gpu_synth.trainers.monitor import SynthesisMonitor


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
            "lesions": self.trainer.datamodule.synthesis.synthesizer.lesions,
            "skipped": self.trainer.datamodule.synthesis.synthesizer.skipped,
            "all_lesions": next(x for x in self.trainer.callbacks if isinstance(x, SynthesisMonitor)).lesions,
            "logged": {name: value.item() for name, value in self.trainer.callback_metrics.items() if name.startswith("synthesis/")},
        }
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(seen))


def test_two_ranks_share_an_epoch(cache, tmp_path):
    monitor = SynthesisMonitor(pictures=False)
    trainer = trainer_of(tmp_path, max_epochs=1, devices=2, strategy="ddp_spawn", limit_val_batches=0, callbacks=[monitor])
    trainer.fit(Writer(tmp_path), data_of(cache, samples_per_epoch=16, batch_size=2))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [rank["uids"] for rank in ranks] == [list(range(0, 16, 2)), list(range(1, 16, 2))]
    assert [rank["samples_seen"] for rank in ranks] == [16, 16]
    assert all(rank["tumor"] for rank in ranks)
    assert len({rank["lesions"] for rank in ranks}) == 2
    lesions = sum(rank["lesions"] for rank in ranks)
    for rank in ranks:
        assert rank["all_lesions"] == rank["logged"]["synthesis/lesions_per_epoch"] == lesions
        assert rank["logged"]["synthesis/skipped_per_epoch"] == sum(rank["skipped"] for rank in ranks)
        assert 0 < rank["logged"]["synthesis/share_of_step_time"] < 1
    assert ranks[0]["logged"] == ranks[1]["logged"]

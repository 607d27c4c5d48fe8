"""The module: what it refuses, one step of the real network, scores, prediction on the scan's own grid."""

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_training import data_of, trainer_of
from torch import nn

from gpu_synth.trainers.module import SegmentationModule, soft_target

PATCH_VOX = (64, 32, 32)
MM = {"spacing_mm": [(1.0, 1.0, 1.0)]}


class Threshold(nn.Module):
    """In place of Swin UNETR: the organ is bright, the tumour in between; exact on data without noise."""

    def forward(self, image):
        dark, bright = (image > 0.2).float(), (image > 0.5).float()
        return torch.cat([1 - dark, 2 * bright, dark], 1)


@pytest.mark.parametrize("patch", [(32, 32, 32), (48, 64, 64), (64, 64), (0, 64, 64)], ids=str)
def test_patches_that_the_network_cannot_take_are_refused(patch):
    with pytest.raises(ValueError, match="patch_vox must be three multiples of 32, one of them above it"):
        SegmentationModule(patch_vox=patch)


def test_unknown_size_is_refused():
    with pytest.raises(ValueError, match="size must be one of tiny, small, base, got 'huge'"):
        SegmentationModule(size="huge")


def test_swin_unetr_learns_from_synthetic_tumours(cache, tmp_path):
    torch.manual_seed(0)
    module = SegmentationModule(patch_vox=PATCH_VOX, lr=1e-3)
    assert 4.0e6 < sum(p.numel() for p in module.network.parameters()) < 4.2e6  # 4.08 M, Swin UNETR-Tiny
    before = [p.clone() for p in module.network.parameters()]
    trainer = trainer_of(tmp_path, limit_val_batches=0, limit_train_batches=2)
    trainer.fit(module, data_of(cache, patch_vox=PATCH_VOX, batch_size=1))
    assert trainer.global_step == 2
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, module.network.parameters(), strict=True))


def test_another_network_takes_its_place_and_its_patches(cache, tmp_path):
    network = nn.Conv3d(1, 3, 3, padding=1)
    module, before = SegmentationModule(patch_vox=(20, 24, 8), network=network, lr=0.1), network.weight.clone()
    trainer = trainer_of(tmp_path, limit_train_batches=1)
    trainer.fit(module, data_of(cache, patch_vox=(20, 24, 8)))
    assert module.network is network
    assert not torch.equal(network.weight, before)
    assert trainer.callback_metrics["val/dsc_organ"].isfinite(), "of a validation with windows of that shape"


def test_soft_labels_reach_the_loss_turned_as_the_image_is(cache, tmp_path):
    """Each class's share adds up to one; tumour is what the hard label has, but for its edge; and training goes on them."""
    data = data_of(cache, patch_vox=PATCH_VOX, batch_size=1, soft_labels=True)
    module, seen = SegmentationModule(patch_vox=PATCH_VOX), []
    module.network = nn.Conv3d(1, 3, 1)
    module.on_train_batch_start = lambda batch, *_: seen.append(batch)
    trainer = trainer_of(tmp_path, limit_val_batches=0)
    trainer.fit(module, data)
    assert trainer.callback_metrics["train/loss"].isfinite()
    tumours = 0
    for batch in seen:
        target = soft_target(batch["label"], batch["occupancy"])
        torch.testing.assert_close(target.sum(1), torch.ones_like(target[:, 0]))
        assert target.min() >= 0
        hard = batch["label"] == 2
        assert (target[:, 2:][hard] >= 0.5 - 1e-4).all()
        assert (target[:, 2:][~hard] <= 0.5 + 1e-4).all()
        tumours += int(hard.sum())
    assert tumours > 100


def test_soft_labels_are_refused_where_the_preset_has_none(cache):
    with pytest.raises(ValueError, match="soft_labels must be False for preset 'liver-hu2022', got True; preset 'liver' has them"):
        data_of(cache, preset="liver-hu2022", soft_labels=True)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_step_in_another_precision(cache, tmp_path, precision):
    trainer = trainer_of(tmp_path, precision=precision, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(module := SegmentationModule(patch_vox=PATCH_VOX), data_of(cache, patch_vox=PATCH_VOX, batch_size=1))
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert {p.dtype for p in module.network.parameters()} == {torch.bfloat16 if precision == "bf16-true" else torch.float64}


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true", "bf16-mixed"])
def test_the_whole_way_in_another_precision(cache, tmp_path, precision):
    """Samples, scores and the place of a prediction do not depend on the network's precision."""
    scan = next((cache.parent / "ct").glob("case0.nii.gz"))
    module, data = SegmentationModule(patch_vox=PATCH_VOX, predict_dir=str(tmp_path)), data_of(cache, predict_images=str(scan))
    module.network = nn.Conv3d(1, 3, 1)
    trainer = trainer_of(tmp_path, precision=precision)
    trainer.fit(module, data)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert 0 <= trainer.callback_metrics["val/dsc_tumor"] <= 1
    written = trainer.predict(module, data)
    np.testing.assert_array_equal(nib.load(written[0]).affine, nib.load(scan).affine)


def test_learning_rate_rises_then_falls_along_a_cosine(cache, tmp_path):
    module = SegmentationModule(patch_vox=PATCH_VOX, lr=1.0, warmup_share=0.25)
    module.network = nn.Conv3d(1, 3, 1)
    rates = []
    module.on_train_batch_end = lambda *_: rates.append(module.optimizers().param_groups[0]["lr"])
    trainer_of(tmp_path, limit_val_batches=0, max_epochs=4).fit(module, data_of(cache, patch_vox=(24, 24, 16)))
    peak = int(np.argmax(rates))
    assert len(rates) == 16
    assert rates[peak] == pytest.approx(1.0)
    assert peak == 3
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.05


def test_scores_are_means_over_scans_and_empty_ones_stand_apart():
    module = SegmentationModule(patch_vox=PATCH_VOX)
    module.network, logged = Threshold(), {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    label = torch.zeros(1, 1, 64, 32, 32, dtype=torch.uint8)
    label[..., 8:56, 4:28, 4:28] = 1
    healthy = label.clone()
    label[..., 16:26, 8:18, 8:18] = 2
    image = torch.tensor([0.0, 0.9, 0.4])[label.long()]
    module.validation_step({"image": image, "label": label, **MM}, 0)
    half = image.clone()
    half[..., 16:21, 8:18, 8:18] = 0.9  # half of the tumour looks healthy: 2·½/(1 + ½)
    module.validation_step({"image": half, "label": label, **MM}, 1)
    module.validation_step({"image": image, "label": healthy, **MM}, 2)  # finds one where there is none
    module.on_validation_epoch_end()
    assert logged == pytest.approx({"val/dsc_organ": 1.0, "val/dsc_tumor": (1 + 2 / 3) / 2, "val/dsc_tumor_empty": 0.0})
    logged.clear()
    module.validation_step({"image": image, "label": healthy, **MM}, 0)
    module.on_validation_epoch_end()
    assert logged == pytest.approx({"val/dsc_organ": 1.0, "val/dsc_tumor": float("nan"), "val/dsc_tumor_empty": 0.0}, nan_ok=True)


def test_only_the_organs_largest_piece_and_tumours_near_it_are_kept():
    module = SegmentationModule(patch_vox=PATCH_VOX)
    module.network = Threshold()
    image = torch.zeros(1, 1, 64, 40, 40)
    image[..., 4:30, 4:30, 4:30] = 0.9
    image[..., 50:60, 30:36, 30:36] = 0.9
    image[..., 34:37, 10:13, 10:13] = 0.4
    segmented = module.segment(image, (1.0, 1.0, 1.0))
    assert segmented[0, 0, 10, 10, 10] == 1
    assert (segmented[0, 0, 34:37, 10:13, 10:13] == 2).all()
    assert not segmented[0, 0, 40:].any()
    assert not module.segment(image, (3.0, 1.0, 1.0))[0, 0, 30:].any(), "on a coarser grid it is 15 mm away"
    assert not module.segment(torch.zeros(1, 1, 64, 40, 40), (1.0, 1.0, 1.0)).any()


def test_prediction_lies_on_the_scans_own_grid(cache, tmp_path):
    native = np.diag([-1.5, 1.2, 3.0, 1.0])
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (96, 90, 30)), indexing="ij"))
    organ = (grid**2).sum(0) < 0.4
    scan = tmp_path / "scan.nii.gz"
    hu = np.where(organ, 150, -100).astype(np.int16)
    hu[:2] = -1000
    nib.save(nib.Nifti1Image(hu, native), scan)
    module = SegmentationModule(patch_vox=PATCH_VOX, predict_dir=str(tmp_path / "out"))
    module.network = Threshold()
    written = trainer_of(tmp_path).predict(module, data_of(cache, predict_images=str(tmp_path / "*.nii.gz")))
    out = nib.load(written[0])
    assert out.get_filename().endswith("out/scan_seg.nii.gz")
    likely = nib.load(tmp_path / "out" / "probabilities" / "scan_seg.nii.gz")
    np.testing.assert_allclose(likely.affine, native)
    assert out.shape == organ.shape
    np.testing.assert_allclose(out.affine, native)
    found = np.asarray(out.dataobj) > 0
    assert 2 * (found & organ).sum() / (found.sum() + organ.sum()) > 0.95

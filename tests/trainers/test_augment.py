"""Window and augmentation: image and label stay together, each sample by itself."""

import pytest
import torch

from gpu_synth.trainers.augment import Augmentation, window

ALWAYS = Augmentation(flip_prob=1.0, turn_prob=1.0, scale_prob=0.0, shift_prob=0.0)
SHAPE = (10, 10, 6)


def batch(n: int, shape=SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    """Every voxel differs; the label is the image's value in integers."""
    image = torch.arange(n * shape[0] * shape[1] * shape[2], dtype=torch.float32).view(n, 1, *shape)
    return image, image.to(torch.int64)


def test_window_maps_hu_and_keeps_nan_from_the_loss():
    hu = torch.tensor([-1000.0, -21.0, 84.0, 189.0, 3000.0, torch.nan, torch.inf, -torch.inf]).view(1, 1, 2, 2, 2)
    assert window(hu, (-21.0, 189.0)).flatten().tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("shape", [SHAPE, (10, 8, 6)], ids=["square", "not-square"])
def test_image_and_label_move_together_and_nothing_is_lost(shape):
    image, label = ALWAYS(*batch(16, shape), seed=1, uid=torch.arange(16))
    assert torch.equal(image.to(torch.int64), label)
    assert torch.equal(label.flatten(1).sort(1).values, batch(16, shape)[1].flatten(1))


def test_flips_and_turns_reach_all_their_results():
    image, _ = ALWAYS(*(x[:1].expand(200, -1, -1, -1, -1) for x in batch(1)), seed=0, uid=torch.arange(200))
    assert len({tuple(corner) for corner in image[:, 0, 0, 0].tolist()}) == 3, "all flips at once, then one to three turns"
    image, _ = Augmentation()(*(x[:1].expand(500, -1, -1, -1, -1) for x in batch(1)), seed=0, uid=torch.arange(500))
    untouched = (image == batch(1)[0]).flatten(1).all(1).float().mean()
    assert abs(untouched - 0.8**4 * 0.85**2) < 4 * (0.3 * 0.7 / 500) ** 0.5  # four standard errors of a share of 500


def test_a_sample_is_augmented_alike_alone_and_in_a_batch():
    image, label = batch(8)
    uid = torch.arange(100, 108)
    together = Augmentation()(image, label, 3, uid)
    for n in range(8):
        alone = Augmentation()(image[n, None], label[n, None], 3, uid[n, None])
        assert torch.equal(alone[0][0], together[0][n])
        assert torch.equal(alone[1][0], together[1][n])
    assert not torch.equal(Augmentation()(image, label, 4, uid)[0], together[0])


def test_intensity_changes_by_a_tenth_at_most_and_only_the_image():
    image = torch.ones(400, 1, 2, 2, 2)
    out, label = Augmentation(flip_prob=0, turn_prob=0, scale_prob=1, shift_prob=1)(image, image.to(torch.uint8), 0, torch.arange(400))
    assert torch.equal(label, image.to(torch.uint8))
    assert out.amin() >= 0.8
    assert out.amax() <= 1.2
    assert out[:, 0, 0, 0, 0].std() > 0.07  # two uniform draws of ±0.1: 0.082


def test_nothing_is_read_back_from_the_device():
    """On the meta device, where there are no values, reading one raises."""
    image, label = (x.to("meta") for x in batch(4))
    image, label = Augmentation()(window(image, (0.0, 1.0)), label, 0, torch.arange(4, device="meta"))
    assert image.device.type == label.device.type == "meta"

"""The callback in other people's Lightning code: MONAI's batches, several loaders at once, data modules with hooks, validation."""

import lightning.pytorch as pl
import pytest
import torch
from adapted import SPACING_MM, Watched, altered, samples, scans, synthesizer
from lightning.pytorch.utilities import CombinedLoader
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset, MetaTensor
from tiny_training import trainer_of
from torch.utils.data import DataLoader

from gpu_synth.trainers.callback import SynthesizeTumors
from gpu_synth.trainers.intensity import Window
from gpu_synth.trainers.places import affine_spacing


class Module(pl.LightningModule):
    """A foreign module that trains on every image and label it finds in a batch, however deep."""

    def __init__(self):
        super().__init__()
        self.network, self.labels, self.kinds = Watched(), [], []

    def training_step(self, batch, batch_idx):
        losses = []
        parts = [batch] if isinstance(batch, dict) and "image" in batch else batch.values() if isinstance(batch, dict) else batch
        for part in filter(None, parts):
            image, label = part.values() if isinstance(part, dict) and len(part) == 2 else (part["image"], part["label"])
            losses.append(torch.nn.functional.cross_entropy(self.network(image), label[:, 0].long()))
            self.labels.append(torch.as_tensor(label).clone())
            self.kinds.append((type(image), set(part)))
        return sum(losses)

    def validation_step(self, batch, batch_idx):
        self.network(batch["image"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, train, *, callback=None, val=None, **options):
    module, callback = Module(), callback or SynthesizeTumors(synthesizer())
    trainer = trainer_of(folder, callbacks=[callback], limit_val_batches=1.0 if val else 0, **options)
    if isinstance(train, pl.LightningDataModule):
        trainer.fit(module, train)
    else:
        trainer.fit(module, train, val)
    return module, trainer


def with_tumour(module) -> list[bool]:
    images = [image for batch in module.network.seen for image in batch]
    labels = [label for batch in module.labels for label in batch]
    assert [altered(image) for image in images] == [bool((label == 2).any()) for label in labels]
    return [altered(image) for image in images]


@pytest.mark.parametrize("workers", [0, 2])
def test_monais_dicts_keep_their_kind_and_their_other_keys(tmp_path, workers):
    """Labels are floating, spacing is in the affine, and there is more in the batch than anybody asked for."""
    loader = MonaiLoader(Dataset(samples(4, meta=True, case="a", age=61)), batch_size=2, num_workers=workers)
    module, _ = fit(tmp_path, loader)
    assert with_tumour(module) == [True] * 4
    assert [kind for kind, _ in module.kinds] == [MetaTensor] * 2
    assert {"case", "age"} <= module.kinds[0][1]
    plain, _ = fit(tmp_path, DataLoader(samples(4), batch_size=2), callback=SynthesizeTumors(synthesizer(), spacing_mm=SPACING_MM))
    assert all(torch.equal(a, b) for a, b in zip(module.network.seen, plain.network.seen, strict=True)), "so the affine was right"


def test_an_affine_tells_spacing_whichever_way_it_turns():
    turned = torch.tensor([[0.0, -0.7, 0, 3], [0.8, 0, 0, 4], [0, 0, 5, 5], [0, 0, 0, 1]])
    assert affine_spacing(MetaTensor(torch.zeros(1, 2, 2, 2), turned)) == pytest.approx([0.8, 0.7, 5.0])
    assert affine_spacing(torch.zeros(1, 2, 2, 2)) is None


def test_every_part_of_a_combined_loader_that_has_a_label(tmp_path):
    loaders = {
        "mine": DataLoader(samples(2), batch_size=1),
        "yours": DataLoader(samples(4)[2:], batch_size=2),
    }
    callback = SynthesizeTumors(synthesizer(), spacing_mm=SPACING_MM)
    module, _ = fit(tmp_path, CombinedLoader(loaders, "min_size"), callback=callback)
    assert with_tumour(module) == [True] * 3
    assert callback.step.synthesizer.get_extra_state()["counter"] == 3


def test_a_combined_loaders_parts_have_spacings_of_their_own(tmp_path):
    """And one that holds no label is left alone; the one with an affine needs no key."""

    class Semi(Module):
        def training_step(self, batch, batch_idx):
            batch, self.unlabelled = batch["labelled"], batch["unlabelled"]["image"].clone()
            return super().training_step(batch, batch_idx)

    unlabelled = [{"image": sample["image"]} for sample in samples(1)]
    loaders = {"unlabelled": DataLoader(unlabelled), "labelled": MonaiLoader(Dataset(samples(1, meta=True)), batch_size=1)}
    module = Semi()
    trainer_of(tmp_path, callbacks=[SynthesizeTumors(synthesizer())], limit_val_batches=0).fit(module, CombinedLoader(loaders))
    assert with_tumour(module) == [True]
    assert torch.equal(module.unlabelled, scans().image[:1])


@pytest.mark.parametrize(("mode", "trained_on"), [("max_size", 3), ("max_size_cycle", 4)])
def test_a_combined_loaders_other_modes(tmp_path, mode, trained_on):
    """In one of them a loader that has ended gives None."""
    loaders = [DataLoader(samples(1)), DataLoader(samples(3)[1:])]
    callback = SynthesizeTumors(synthesizer(), spacing_mm=SPACING_MM)
    module, _ = fit(tmp_path, CombinedLoader(loaders, mode), callback=callback)
    assert with_tumour(module) == [True] * trained_on


class Scaling(pl.LightningDataModule):
    """Somebody's data module: it scales after the transfer, where Lightning lets nobody else in, and hands over another dict."""

    window = Window(-175.0, 250.0)

    def train_dataloader(self):
        return DataLoader(
            [{"ct": sample["image"], "seg": sample["label"], "spacing_mm": torch.tensor(SPACING_MM)} for sample in samples(2)]
        )

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {"image": self.window.from_hu(batch["ct"]), "label": batch["seg"]}


def test_a_data_module_with_a_hook_of_its_own(tmp_path):
    """The callback comes after the hook: it names what the hook made, and the spacing that the loader's batch held before."""
    module, _ = fit(tmp_path, Scaling(), callback=SynthesizeTumors(synthesizer(), intensity=Scaling.window))
    assert all((label == 2).any() for label in module.labels)
    healthy = Scaling.window.from_hu(scans(2).image)
    assert all(((a[0] - b).abs() > 0.02).sum() > 5 for a, b in zip(module.network.seen, healthy, strict=True))
    assert all((image >= 0.0).all() and (image <= 1.0).all() for image in module.network.seen)


def test_a_data_module_that_scales_without_a_word_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"intensity must lead to HU, got HU and values from 0 to 1 HU, as of a scaled image"):
        fit(tmp_path, Scaling())


def test_validation_is_as_it_was_and_state_is_in_checkpoints(tmp_path):
    def run(seed, **options):
        callback = SynthesizeTumors(synthesizer(seed=seed), spacing_mm=SPACING_MM)
        val = DataLoader(samples(4)[3:])
        return fit(tmp_path, DataLoader(samples(3)), callback=callback, val=val, num_sanity_val_steps=1, **options)

    whole, trainer = run(3, max_epochs=2)
    assert with_tumour(whole) == [True] * 6
    assert len(whole.network.validated) == 3, "a sanity check and two epochs"
    assert not any(altered(image) for batch in whole.network.validated for image in batch)
    _, trainer = run(3, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    module, callback = Module(), SynthesizeTumors(synthesizer(seed=99), spacing_mm=SPACING_MM)
    trainer_of(tmp_path, callbacks=[callback], limit_val_batches=0, max_epochs=2).fit(
        module, DataLoader(samples(3)), ckpt_path=tmp_path / "one.ckpt"
    )
    assert all(torch.equal(a, b) for a, b in zip(whole.network.seen[3:], module.network.seen, strict=True))
    assert torch.equal(whole.network.convolution.weight, module.network.convolution.weight)


@pytest.mark.parametrize(
    ("loader", "word"),
    [
        (
            DataLoader([{"ct": sample["image"], "label": sample["label"]} for sample in samples(1)]),
            r"'image', got keys \['ct', 'label'\]; name",
        ),
        (DataLoader([tuple(sample.values()) for sample in samples(1)]), "'image', got a list of 2; name the place with image_key"),
        (
            CombinedLoader({"a": DataLoader([{"image": sample["image"]} for sample in samples(1)])}),
            r"'label', got keys \['a'\] \(in 'a' keys \['image'\]\); name",
        ),
        (DataLoader(samples(1)), r"'spacing_mm', got keys \['image', 'label'\]; .* or give spacing_mm"),
    ],
    ids=["no image", "a tuple", "no label in any part", "no spacing"],
)
def test_what_cannot_be_found_is_named_with_what_there_is(tmp_path, loader, word):
    with pytest.raises(ValueError, match=f"batch must hold {word}"):
        fit(tmp_path, loader)

"""Loops of one's own: plain torch and Accelerate. Trains on tumours, validates without, goes on where it was."""

import pytest
import torch
from accelerate import Accelerator
from adapted import SPACING_MM, Watched, altered, samples, synthesizer
from torch.utils.data import DataLoader


class Plain:
    """What a loop without a library does itself."""

    def __init__(self, network, optimizer, synth):
        self.objects = {"network": network, "optimizer": optimizer, "synth": synth}

    def prepare(self, *loaders):
        return loaders

    def backward(self, loss):
        loss.backward()

    def save(self, path):
        torch.save({name: value.state_dict() for name, value in self.objects.items()}, path)

    def load(self, path):
        state = torch.load(path, weights_only=True)
        for name, value in self.objects.items():
            value.load_state_dict(state[name])


class Accelerated:
    """The same with Accelerate's own means; the synthesizer is registered, not prepared."""

    def __init__(self, network, optimizer, synth):
        self.accelerator = Accelerator(cpu=True)
        self.accelerator.prepare(network, optimizer)
        self.accelerator.register_for_checkpointing(synth)

    def prepare(self, *loaders):
        return self.accelerator.prepare(*loaders)

    def backward(self, loss):
        self.accelerator.backward(loss)

    def save(self, path):
        self.accelerator.save_state(str(path))

    def load(self, path):
        self.accelerator.load_state(str(path))


def trained(kind, path, epochs, seed=3, resume=False, tuples=False):
    network, synth = Watched(), synthesizer(seed=seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loop = kind(network, optimizer, synth)
    data = [tuple(sample.values()) if tuples else sample for sample in samples()]
    loader, held_out = loop.prepare(DataLoader(data[:3], batch_size=1), DataLoader(data[3:]))
    if resume:
        loop.load(path)
    for epoch in range(epochs):
        network.train()
        for batch in loader:
            image, label = batch if tuples else (batch["image"], batch["label"])
            image, label = synth(image, label, SPACING_MM)
            optimizer.zero_grad()
            loop.backward(torch.nn.functional.cross_entropy(network(image), label[:, 0].long()))
            optimizer.step()
            assert (label == 2).any()
        if epoch == 0:
            loop.save(path)
        network.eval()
        for batch in held_out:
            network(batch[0] if tuples else batch["image"])
    return network


@pytest.mark.parametrize("kind", [Plain, Accelerated])
def test_a_loop_trains_on_tumours_validates_without_and_goes_on(tmp_path, kind):
    whole = trained(kind, tmp_path / "whole", 2)
    assert len(whole.seen) == 6
    assert all(altered(batch[0]) for batch in whole.seen)
    assert not any(altered(batch[0]) for batch in whole.validated)
    rest = trained(kind, tmp_path / "whole", 1, seed=99, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.seen[3:], rest.seen, strict=True))
    assert torch.equal(whole.convolution.weight, rest.convolution.weight)


def test_tuples_serve_as_well(tmp_path):
    by_tuple, by_dict = trained(Plain, tmp_path / "a", 1, tuples=True), trained(Plain, tmp_path / "b", 1)
    assert all(torch.equal(a, b) for a, b in zip(by_tuple.seen, by_dict.seen, strict=True))

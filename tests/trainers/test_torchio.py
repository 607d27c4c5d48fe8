"""TorchIO: a transform of subjects, its history, its loaders."""

import pytest
import torch
import torchio as tio
from adapted import AFFINE, Watched, all_differ, altered, samples, scans, synthesizer

from gpu_synth.trainers.intensity import Window
from gpu_synth.trainers.torchio import RandomTumor, Tumor


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def subjects(count: int = 4, **more) -> list[tio.Subject]:
    return [
        tio.Subject(
            ct=tio.ScalarImage(tensor=sample["image"], affine=AFFINE), liver=tio.LabelMap(tensor=sample["label"], affine=AFFINE), **more
        )
        for sample in samples(count)
    ]


def test_a_subject_gets_tumours_and_stays_as_it_was():
    given = subjects(1, name="case 7")[0]
    made = RandomTumor(synthesizer())(given)
    assert made["name"] == "case 7"
    assert (made["ct"].affine == given["ct"].affine).all()
    assert (made["ct"].data.dtype, made["liver"].data.dtype) == (given["ct"].data.dtype, given["liver"].data.dtype)
    assert (made["liver"].data == 2).any()
    assert altered(made["ct"].data)
    assert not altered(given["ct"].data)


def test_its_history_makes_the_same_tumours_again():
    given = subjects(1)[0]
    pipeline = tio.Compose([tio.RandomFlip(axes=(0, 1, 2), flip_probability=1.0), RandomTumor(synthesizer()), tio.RandomNoise(std=5)])
    made = pipeline(given)
    assert [transform.name for transform in made.get_applied_transforms()] == ["Flip", "Tumor", "Noise"]
    again = made.get_composed_history()(given)
    assert torch.equal(made["liver"].data, again["liver"].data)
    assert torch.equal(made["ct"].data, again["ct"].data)
    assert "uid=" in str(made.history[1])


def test_torchs_seed_and_p_are_honoured():
    transform, given = RandomTumor(synthesizer()), subjects(1)[0]

    def three(seed):
        torch.manual_seed(seed)
        return [transform(given)["ct"].data for _ in range(3)]

    assert all_differ(three(1))
    assert all(torch.equal(a, b) for a, b in zip(three(1), three(1), strict=True))
    assert not altered(RandomTumor(synthesizer(), p=0)(given)["ct"].data)
    assert torch.equal(RandomTumor(synthesizer(prob=0.0))(given)["ct"].data, given["ct"].data)


def test_processes_of_one_training_draw_apart_though_they_are_seeded_alike(monkeypatch):
    transform, given, seen = RandomTumor(synthesizer()), subjects(1)[0], []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        torch.manual_seed(1)
        seen += [transform(given)["ct"].data for _ in range(2)]
    assert all_differ(seen)


def trained(workers, epochs, state=None, batches=1):
    """A loop of one's own over a loader of subjects; validation without the transform."""
    if state is None:
        torch.manual_seed(5)
    else:
        torch.set_rng_state(state)
    network, states = Watched(), []
    dataset = tio.SubjectsDataset(subjects(1) * 4, transform=tio.Compose([RandomTumor(synthesizer())]))
    loader, held_out = (
        tio.SubjectsLoader(dataset, batch_size=batches, num_workers=workers),
        tio.SubjectsLoader(tio.SubjectsDataset(subjects(1))),
    )
    torch.manual_seed(5) if state is None else torch.set_rng_state(state)  # the network drew
    for _ in range(epochs):
        for batch in loader:
            image, label = batch["ct"][tio.DATA], batch["liver"][tio.DATA]
            torch.nn.functional.cross_entropy(network(image), label[:, 0].long()).backward()
            assert [altered(one) for one in image] == [bool((one == 2).any()) for one in label]
        states.append(torch.get_rng_state())
        network.eval()
        [network(batch["ct"][tio.DATA]) for batch in held_out]
        torch.set_rng_state(states[-1])
        network.train()
    return network, states


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_a_loop_trains_on_tumours_validates_without_and_goes_on(workers):
    whole, states = trained(workers, 2)
    assert len(whole.seen) == 8
    assert all(altered(image) for batch in whole.seen for image in batch)
    assert all_differ(whole.seen), "no two alike within an epoch, none again in the next"
    assert not any(altered(image) for batch in whole.validated for image in batch)
    rest, _ = trained(workers, 1, states[0])
    assert all(torch.equal(a, b) for a, b in zip(whole.seen[4:], rest.seen, strict=True))


def test_patches_of_a_queue_hold_tumours():
    dataset = tio.SubjectsDataset(subjects(2), transform=RandomTumor(synthesizer()))
    sampler = tio.LabelSampler(patch_size=8, label_name="liver", label_probabilities={2: 1})
    queue = tio.Queue(dataset, max_length=4, samples_per_volume=2, sampler=sampler, num_workers=0)
    patches = list(tio.SubjectsLoader(queue, batch_size=1, num_workers=0))
    assert len(patches) == 4
    assert all((patch["liver"][tio.DATA] == 2).any() for patch in patches)


def test_a_scaled_integer_or_floating_subject():
    window = Window(-175.0, 250.0)
    scaled = subjects(1)[0]
    scaled["ct"].set_data(window.from_hu(scaled["ct"].data))
    made = Tumor(synthesizer(), 4, intensity=window)(scaled)
    assert made["ct"].data.min() >= 0.0
    assert made["ct"].data.max() <= 1.0
    assert ((made["ct"].data - scaled["ct"].data).abs() > 0.02).sum() > 5
    whole = subjects(1)[0]
    whole["ct"].set_data(whole["ct"].data.round().to(torch.int16))
    whole["liver"].set_data(whole["liver"].data.float())
    made = Tumor(synthesizer(), 4)(whole)
    assert (made["ct"].data.dtype, made["liver"].data.dtype) == (torch.int16, torch.float32)
    assert (made["liver"].data == 2).any()


def test_what_cannot_be_found_is_named_with_what_there_is():
    pet = tio.ScalarImage(tensor=scans().image[0], affine=AFFINE)
    both = subjects(1, pet=pet)[0]
    with pytest.raises(ValueError, match=r"subject must hold one ScalarImage, got 'ct' .*, 'liver' .*, 'pet' .*; name it: image="):
        RandomTumor(synthesizer())(both)
    made = RandomTumor(synthesizer(), image="ct")(both)
    assert altered(made["ct"].data)
    assert torch.equal(made["pet"].data, pet.data)
    with pytest.raises(ValueError, match=r"subject must hold an image 'spleen', got 'ct' .*; name it: label="):
        RandomTumor(synthesizer(), label="spleen")(subjects(1)[0])


def test_subjects_that_are_no_hu_are_told_once():
    transform, scaled = RandomTumor(synthesizer()), subjects(2)
    for subject in scaled:
        subject["ct"].set_data(Window(-175.0, 250.0).from_hu(subject["ct"].data))
    with pytest.warns(UserWarning, match="as of a scaled image; name its way back: intensity=Window") as said:
        [transform(subject) for subject in scaled]
    assert len([one for one in said if "must lead to HU" in str(one.message)]) == 1

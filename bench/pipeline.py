"""What people run today: the published method on one core, and as a MONAI transform in a data loader; beside it, ours on the device."""

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureType, MapTransform, RandomizableTransform, RandSpatialCropd
from torch import Tensor
from torch.utils.data import RandomSampler

from gpu_synth.bench import published
from gpu_synth.bench.case import ORGAN, ORGAN_HU, SEED, SPACING_MM, TUMOUR, Case, Setting
from gpu_synth.bench.settings import ALL
from gpu_synth.bench.synthesis import synthesizer
from gpu_synth.bench.timing import one_ahead
from gpu_synth.bench.training import WINDOW_HU, trainer
from gpu_synth.trainers.augment import window

SCANS = 4
ENDLESS = 1 << 40
BANK_MARGIN_VOX = 16


class PublishedTumorsd(MapTransform, RandomizableTransform):  # type: ignore[misc] # MONAI is untyped
    """The published method as a MONAI dictionary transform, on the CPU, one sample at a time, at 1 mm.

    Args:
        image_key: Where the sample holds the CT `(1, i, j, k)` in HU.
        label_key: Where it holds the label: 0 background, 1 organ, 2 tumour.
        prob: Probability that a sample is altered, where it has an organ and no tumour.
        size_class: Size class of every sample; None: each class alike.
        bank: Textures to crop from; None: a fresh texture for each sample.
    """

    def __init__(
        self,
        image_key: str = "image",
        label_key: str = "label",
        prob: float = 0.9,
        size_class: str | None = None,
        bank: Sequence[published.Floats] | None = None,
    ) -> None:
        MapTransform.__init__(self, (image_key, label_key))
        RandomizableTransform.__init__(self, prob)
        self.size_class, self.bank = size_class, bank

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Alter a sample; what is given stays as it is."""
        out = dict(data)
        image, label = (out[key] for key in self.keys)
        organ = label[0].numpy() == ORGAN
        self.randomize(None)
        if not self._do_transform or not organ.any() or bool((label == TUMOUR).any()):
            return out
        rng = np.random.default_rng(self.R.randint(0, 2**32, size=4, dtype=np.uint32))
        classes = list(published.CLASSES)
        size_class = self.size_class or classes[rng.integers(len(classes))]
        scan = published.synthesize(organ, size_class, rng, bank=self.bank)
        image_key, label_key = self.keys
        out[image_key] = image - torch.from_numpy(scan.drop_hu)[None].to(image.dtype)
        out[label_key] = torch.where(torch.from_numpy(scan.tumour)[None], TUMOUR, label).to(label.dtype)
        return out


def one_core(device: torch.device, setting: Setting, banked: bool) -> Case:
    """A patch that is all organ through the published method, by one thread.

    Args:
        device: Not used: the method is NumPy's and SciPy's.
        setting: Its size class; "all" takes them in turn.
        banked: Crop textures from a bank, as the authors do, rather than make each anew.
    """
    rng = np.random.default_rng(SEED)
    bank = published.texture_bank(max(setting.whole_vox) + BANK_MARGIN_VOX, rng) if banked else None
    label, image = np.ones(setting.whole_vox, np.uint8), np.full(setting.whole_vox, ORGAN_HU, np.float32)
    classes = cycle(published.CLASSES if setting.size_class == ALL else [str(setting.size_class)])

    def run() -> tuple[published.Floats, published.Ints]:
        scan = published.synthesize(label == ORGAN, next(classes), rng, bank=bank)
        return image - scan.drop_hu.astype(np.float32), label + scan.tumour

    turn = len(published.CLASSES) if setting.size_class == ALL else 1
    return Case(run, threads=1, warm_up=turn, cycle=turn)


def loader(setting: Setting, seed: int = SEED) -> Iterator[dict[str, Tensor]]:
    """Batches of patches, cut at random by worker processes from scans that are all organ, without end.

    Args:
        setting: `source` "published" has the workers run the published method too.
        seed: Of the workers.
    """
    rng = np.random.default_rng(seed)
    whole = tuple(n + n // 3 for n in setting.whole_vox)
    noisy = [torch.from_numpy(rng.normal(ORGAN_HU, 15, (1, *whole)).astype(np.int16)) for _ in range(SCANS)]
    scans = [{"image": image, "label": torch.full_like(image, ORGAN, dtype=torch.uint8)} for image in noisy]
    crop = RandSpatialCropd(("image", "label"), setting.whole_vox, random_size=False)
    tumours = [PublishedTumorsd(prob=1.0, size_class=None if setting.size_class == ALL else setting.size_class)]
    chain = [crop, _Plain(), *(tumours if setting.source == "published" else [])]
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(scans, replacement=True, num_samples=ENDLESS, generator=generator)
    options = {"sampler": sampler, "generator": generator, "pin_memory": torch.cuda.is_available()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores are part of the comparison
        return iter(DataLoader(Dataset(scans, Compose(chain)), batch_size=setting.samples, num_workers=setting.workers or 0, **options))


class _Plain:
    """Tensors without MONAI's meta data, which cost more to put into a batch than they tell here; the image as float32."""

    def __init__(self) -> None:
        self.image, self.label = EnsureType(dtype=torch.float32, track_meta=False), EnsureType(track_meta=False)

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"image": self.image(data["image"]), "label": self.label(data["label"])}


def end_to_end(device: torch.device, setting: Setting) -> Case:
    """From the loader's workers to the model: its step where there is one, else its windowed input on the device."""
    batches = loader(setting)
    synth = synthesizer(setting) if setting.source == "ours" else None
    step, wait = trainer(device, setting) if setting.model else None, one_ahead(device)

    def run() -> object:
        batch = next(batches)
        image, label = (batch[key].to(device, non_blocking=True) for key in ("image", "label"))
        if synth is not None:
            image, label = synth(image, label, SPACING_MM)
        if step is not None:
            return step(image, label)
        windowed = window(image, WINDOW_HU)
        wait()
        return windowed

    workers = setting.workers or 1
    return Case(run, loop=True, warm_up=2 * workers + 2, cycle=workers)  # workers that started together deliver together

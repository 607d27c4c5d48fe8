"""A case of a data set by name, brought into the form that training reads."""

from collections.abc import Sequence

from gpu_synth.conform import conform_ct, conform_label
from gpu_synth.datasets.contract import Dataset, read_case
from gpu_synth.sources import Source
from gpu_synth.volumes import Volume


def prepare_case(dataset: Dataset, source: Source, organ: str, spacing_mm: Sequence[float]) -> tuple[Volume, Volume, list[str]]:
    """Read a case as `prepare` does.

    Args:
        dataset: where it is from.
        source: the case.
        organ: which organ's mask.
        spacing_mm: wanted spacing, along right, anterior, superior.

    Returns:
        int16 HU and uint8 label on the wanted spacing, RAS; and what was changed, in words.

    Raises:
        VolumeError: the case cannot be used.
    """
    scan = read_case(dataset, source, organ)
    image, image_notes = conform_ct(source.image, scan.image, spacing_mm)
    label, label_notes = conform_label(source, scan.label, image, (1,), (2,))
    return image, label, [*scan.notes, *image_notes, *label_notes]

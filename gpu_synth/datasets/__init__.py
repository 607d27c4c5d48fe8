"""Public data sets by name, read from the folder as it is downloaded: `gpu-synth prepare --dataset lits --root FOLDER`."""

from gpu_synth.datasets.btcv import BTCV
from gpu_synth.datasets.chaos import CHAOS
from gpu_synth.datasets.contract import Dataset, Found, Scan, Values, find_cases, read_case
from gpu_synth.datasets.ircad import IRCAD
from gpu_synth.datasets.lits import LITS
from gpu_synth.datasets.msd_liver import MSD_LIVER
from gpu_synth.datasets.pancreas_ct import PANCREAS_CT

DATASETS: dict[str, Dataset] = {each.name: each for each in (LITS, MSD_LIVER, CHAOS, BTCV, PANCREAS_CT, IRCAD)}


def dataset_named(name: str) -> Dataset:
    """Find a data set.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r}; other folders: --images and --labels, or --datalist")
    return DATASETS[name]


__all__ = ["DATASETS", "Dataset", "Found", "Scan", "Values", "dataset_named", "find_cases", "read_case"]

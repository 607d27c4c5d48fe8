"""`python -m gpu_synth.bench.learning`: do networks learn from synthetic tumours, and from which?"""

import os
import sys
from pathlib import Path

from jsonargparse import auto_cli

from gpu_synth.bench.learning.experiment import experiment
from gpu_synth.bench.learning.settings import ARMS, SCALES, SEEDS
from gpu_synth.bench.machine import REPOSITORY


def learning(
    scale: str = "small",
    arms: list[str] = list(ARMS),  # noqa: B006 (not altered)
    seeds: list[int] = list(SEEDS),  # noqa: B006
    ct_dir: Path | None = None,
    held_out_ct: str = "chaos_ctset3",
    work: Path = Path("runs/learning"),
    out: Path = REPOSITORY / "bench" / "results",
) -> int:
    """Train the same network on different synthetic tumours, and test each on the same held-out scans.

    A run, one arm with one seed, leaves its result as soon as it is done; the same command goes on with those that are missing.

    Args:
        scale: "small", minutes a run on one core, or "paper": Swin UNETR-Tiny at 1 mm, hours on a GPU.
        arms: What to train on.
        seeds: As many runs of each.
        ct_dir: Folder of healthy CTs, NAME_ct.nii.gz with NAME_liver.nii.gz; by default what GPU_SYNTH_TEST_DATA names.
        held_out_ct: NAME of the CT that is tested, and not trained on.
        work: Folder for prepared scans, test scans and weights.
        out: Folder for results, JSON.

    Raises:
        ValueError: A name is unknown, or the CTs are not there.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if unknown := [name for name in arms if name not in ARMS]:
        raise ValueError(f"arms must be among {', '.join(ARMS)}, got {', '.join(unknown)}")
    folder = ct_dir or Path(os.environ.get("GPU_SYNTH_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        raise ValueError(f"ct_dir must be a folder of healthy CTs, got {folder}; set it, or GPU_SYNTH_TEST_DATA")
    experiment(SCALES[scale], {name: ARMS[name] for name in arms}, seeds, folder, held_out_ct, work, out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(auto_cli(learning, as_positional=False, prog="python -m gpu_synth.bench.learning"))
    except ValueError as error:
        sys.exit(f"gpu-synth: error: {error}")

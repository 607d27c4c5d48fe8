"""Small data sets made by `gpu-synth synthesize`, and their files."""

import json

import nibabel as nib
import numpy as np
from ct_files import SHAPE, ct, organ, write

from gpu_synth.synthesize.run import synthesize


def scans(folder, *names):
    """Cases that differ in noise."""
    for n, name in enumerate(names):
        noise = np.random.default_rng(n).normal(0, 15, SHAPE)
        write(folder / "images" / f"{name}.nii.gz", np.rint(ct() + noise).astype(np.int16), orientation="LPS" if n % 2 else "RAS")
        write(folder / "labels" / f"{name}.nii.gz", organ(), orientation="LPS" if n % 2 else "RAS")


SMALL = {"size_prob": (1, 0, 0, 0)}


def run(folder, out="out", **how):
    how = how if {"plan", "card"} & how.keys() else {"overrides": SMALL, **how}
    where = {"images": f"{folder}/images", "labels": f"{folder}/labels"}
    return synthesize(out=str(folder / out), **(where if not {"data_dir", "datalist", "images", "card"} & how.keys() else {}), **how)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def edited(drawn, tmp_path, change, of="b_v0"):
    """Change a plan of a data set and render it into another."""
    document = json.loads((drawn / "out" / "plans" / f"{of}.json").read_text())
    change(document)
    (tmp_path / "mine.json").write_text(json.dumps(document))
    return run(drawn, str(tmp_path / "edited"), plan=str(tmp_path / "mine.json"))

"""Lets torchvision be imported beside a CPU-only torch, in the environment of the nnU-Net tests alone; its operators cannot run.

The index's torchvision is built for CUDA: its library does not load here, and its import ends at the first operator that it lacks.
nnU-Net imports it through timm and uses none of its operators.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import Any


class Shim(MetaPathFinder):
    """Stands before the first import of torchvision, and costs nothing without one."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname != "torchvision":
            return
        sys.meta_path.remove(self)
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::nms does not exist" not in str(error):
                raise
            import torch

            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            self.library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                self.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


SHIM = Shim()  # kept, for its operators go with it
sys.meta_path.insert(0, SHIM)

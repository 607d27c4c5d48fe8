"""Where kernels run in these tests: in the emulator, threads in forward and in reversed order, and on CUDA where there is any."""

import pytest
import torch
from emulator import emulated

EMULATED = ["forward", "reversed"]


@pytest.fixture(params=[*EMULATED, pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Device on which backend "cupy" works."""
    if request.param == "cuda":
        return torch.device("cuda")
    emulated(monkeypatch, request.param)
    return torch.device("cpu")

"""What every test runs under: one thread, uninitialised memory that shows, and no CUDA test without CUDA."""

from collections.abc import Iterator

import pytest
import torch

from gpu_synth.kernels import _launch


def pytest_configure() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = "no CUDA device" if not torch.cuda.is_available() else _launch.missing()
    for item in items if why else []:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN, or an integer's largest value; not where other people's networks train."""
    if "trainers" in request.path.parts:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # the switch that fill_uninitialized_memory, on by default, hangs on
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])

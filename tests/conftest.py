"""What every test runs under: one thread, uninitialised memory that shows, and no CUDA test without CUDA."""

from collections.abc import Callable, Iterator

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


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Callable[[str, int, float, str], None]:
    """Tell a statistic: what it is, its sample size, its value and the bound that it must keep; the run ends with a table of them."""
    return lambda what, samples, value, bound: record_property("statistic", [what, int(samples), float(value), bound])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    rows = [value for report in reports for name, value in getattr(report, "user_properties", []) if name == "statistic"]
    if rows:
        terminalreporter.section("statistics")
        terminalreporter.write_line(f"{'what':78}{'samples':>9}{'value':>10}  bound")
    for what, samples, value, bound in sorted(rows):
        terminalreporter.write_line(f"{what:78}{samples:>9}{value:>10.3g}  {bound}")

"""What only a GPU shows: nothing waits, memory stays flat, a graph replays fresh tumours. Labels and images: see test_backends.py."""

import copy
import pickle

import pytest
import torch
from scans import ONE_MM, uids

from gpu_synth import TumorSynthesizer

pytestmark = pytest.mark.cuda
PATCH = (96, 96, 96)
PRESETS = ("liver-hu2022", "liver")


def patches(b=2, dtype=torch.float32):
    image = torch.full((b, 1, *PATCH), 100.0, device="cuda", dtype=dtype)
    return image, torch.ones(b, 1, *PATCH, device="cuda", dtype=torch.uint8)


@pytest.mark.parametrize(("backend", "graph"), [("cupy", False), ("cupy", True), ("torch", False)], ids=["cupy", "graph", "torch"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_call_waits_for_nothing(preset, backend, graph):
    """Neither by torch's own count, nor by the profiler's, which also sees what CuPy does."""
    image, label = patches()
    synth = TumorSynthesizer(preset, prob=1.0, backend=backend, graph=graph)
    for _ in range(3):
        synth(image, label, ONE_MM)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        synth(image, label, ONE_MM)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    waits_of(lambda: None)  # the profiler's own first time
    idle = waits_of(lambda: None)  # it waits at its end
    assert waits_of(lambda: synth(image, label, ONE_MM)) == idle
    assert waits_of(lambda: image.sum().item()) != idle


def waits_of(run):
    """What the runtime did that holds up the host, by name and number: waits, copies to the host, allocations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
    held_up = ("Synchronize", "DtoH", "cudaMemcpy", "cudaMalloc", "cudaFree")
    events = {event.key: event.count for event in profile.key_averages() if any(name in event.key for name in held_up)}
    return {key: count for key, count in events.items() if "Async" not in key}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_graph_replays_fresh_tumours_the_same_as_without(preset):
    image, label = patches()
    eager, graph = (
        TumorSynthesizer(preset, prob=1.0, backend="cupy"),
        TumorSynthesizer(preset, prob=1.0, backend="cupy", graph=True),
    )
    seen = set()
    for _ in range(5):
        expected, got = eager(image, label, ONE_MM), graph(image, label, ONE_MM)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
        seen.add(int((got[1] == 2).sum()))
    assert len(seen) > 1
    assert graph.lesions == eager.lesions


@pytest.mark.parametrize("preset", PRESETS)
def test_a_graph_outlives_the_caches_that_it_was_captured_from(preset):
    """Its spacings and tables lie in small tensors; those of other spacings must not come to lie in their place."""
    image, label = patches()
    eager, graph = (
        TumorSynthesizer(preset, prob=1.0, backend="cupy"),
        TumorSynthesizer(preset, prob=1.0, backend="cupy", graph=True),
    )
    graph(image, label, ONE_MM, uids(2))
    for n in range(300):
        eager(image[..., :24], label[..., :24], (1.0 + n / 300, 1.0, 1.0), uids(2))
    expected, got = eager(image, label, ONE_MM, uids(2)), graph(image, label, ONE_MM, uids(2))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_graph_of_a_batch_that_mixes_spacings(preset):
    image, label = patches(3)
    spacing_mm = [ONE_MM, ONE_MM, (0.7, 0.7, 5.0)]
    eager, graph = (
        TumorSynthesizer(preset, prob=1.0, backend="cupy"),
        TumorSynthesizer(preset, prob=1.0, backend="cupy", graph=True),
    )
    for _ in range(2):
        assert torch.equal(graph(image, label, spacing_mm)[0], eager(image, label, spacing_mm)[0])


def test_a_graph_is_not_copied_or_pickled_with_its_synthesizer():
    image, label = patches()
    graph = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy", graph=True)
    graph(image, label, ONE_MM)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert torch.equal(other(image, label, ONE_MM, uids(2))[0], graph(image, label, ONE_MM, uids(2))[0])


def test_a_compiled_model_makes_the_same_tumours():
    image, label = patches()
    synth, eager = TumorSynthesizer("liver-hu2022", prob=1.0), TumorSynthesizer("liver-hu2022", prob=1.0)
    compiled = torch.compile(lambda image, label: synth(image, label, ONE_MM), fullgraph=True)
    for _ in range(3):
        assert torch.equal(compiled(image, label)[0], eager(image, label, ONE_MM)[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_graph_follows_labels_and_seed(preset):
    image, label = patches()
    graph = TumorSynthesizer(preset, prob=1.0, backend="cupy", graph=True)
    graph(image, label, ONE_MM, uids(2))
    half = label.clone()
    half[:, :, :48] = 0
    new_label = graph(image, half, ONE_MM, uids(2))[1]
    assert not (new_label[:, :, :48] == 2).any()
    first = graph(image, label, ONE_MM, uids(2))[1]
    graph.set_extra_state({**graph.get_extra_state(), "seed": 5})
    assert not torch.equal(graph(image, label, ONE_MM, uids(2))[1], first)


def test_a_graph_captured_in_a_validation_serves_a_training():
    image, label = patches()
    graph = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy", graph=True)
    with torch.inference_mode():
        expected = graph(image, label, ONE_MM, uids(2))
    assert torch.equal(graph(image, label, ONE_MM, uids(2))[0], expected[0])


def test_more_shapes_than_graphs_are_made_without_and_said_once():
    graph = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy", graph=True)
    for n in range(4):
        graph(*(x[..., : 40 + n] for x in patches()), ONE_MM, uids(2))
    with pytest.warns(UserWarning, match="graph=True keeps graphs for 4 shapes"):
        graph(*(x[..., :50] for x in patches()), ONE_MM, uids(2))


@pytest.mark.parametrize("spacing_mm", [ONE_MM, (2.0, 2.0, 2.0)], ids=["1mm", "2mm"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_memory_is_at_most_three_times_the_batch_and_flat(graph, spacing_mm):
    image, label = patches(8)
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy", graph=graph)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = synth(image, label, spacing_mm)
    torch.cuda.synchronize()
    beyond = torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in out)
    assert beyond <= 3 * image.nbytes
    del out
    for _ in range(20):
        synth(image, label, spacing_mm)
    reserved = torch.cuda.memory_reserved()
    for _ in range(1000):
        synth(image, label, spacing_mm)
    assert torch.cuda.memory_reserved() == reserved


def test_launches_follow_torchs_stream():
    image, label = patches()
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy")
    expected = synth(image, label, ONE_MM, uids(2))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late = image * 1.0
        got = synth(late, label, ONE_MM, uids(2))
    side.synchronize()
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_under_autocast_and_in_half_precision(dtype):
    image, label = patches(2, dtype)
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy")
    expected = synth(image, label, ONE_MM, uids(2))
    with torch.autocast("cuda", dtype=dtype):
        got = synth(image, label, ONE_MM, uids(2))
    assert got[0].dtype == dtype
    assert torch.equal(got[0], expected[0])


def test_a_plan_comes_to_the_host_as_a_whole():
    """The device is held up: a copy that nobody waits for would be read before it begins."""
    image, label = patches()
    plan = TumorSynthesizer("liver-hu2022", prob=1.0, backend="cupy").plan(image, label, ONE_MM, uids(2))
    expected = {name: tensor.cpu() for name, tensor in plan.tensors().items()}
    torch.cuda._sleep(200_000_000)
    moved = plan.to("cpu")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in moved.tensors().items())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("backend", ["cupy", "torch"])
def test_labels_of_large_unsigned_types(backend, preset):
    image, label = (x[..., :32] for x in patches())
    synth = TumorSynthesizer(preset, prob=1.0, backend=backend)
    expected = synth(image, label, ONE_MM, uids(2))
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        got = synth(image, label.to(dtype), ONE_MM, uids(2))
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1].to(torch.uint8), expected[1])

"""Peak activation memory: by hand, against PyTorch's allocator and against ONNX Runtime's arena."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from ghostsearch.measure.cost import measure_cost

FLOAT = 4
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory_check.py"


def peak(model, *shape):
    return measure_cost(model, torch.zeros(shape)).peak_memory_bytes


def test_input_and_output_of_the_largest_step():
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    assert peak(model, 1, 2, 8, 8) == FLOAT * 64 * (6 + 4)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


def test_a_shortcut_stays_alive():
    assert peak(Residual(), 1, 4, 8, 8) == FLOAT * 64 * (4 + 16 + 4)


def test_elementwise_steps_and_norms_take_no_memory_of_their_own():
    baseline = nn.Conv2d(3, 8, 3, padding=1)
    dressed = nn.Sequential(baseline, nn.BatchNorm2d(8), nn.SiLU(), nn.ReLU())
    assert peak(dressed, 1, 3, 16, 16) == peak(baseline, 1, 3, 16, 16)


def test_results_that_nothing_reads_are_not_counted():
    assert peak(nn.MaxPool2d(2), 1, 8, 8, 8) == FLOAT * 8 * (64 + 16)  # and no int64 indices


def test_per_image():
    model = nn.Conv2d(3, 8, 3)
    assert peak(model, 4, 3, 16, 16) == peak(model, 1, 3, 16, 16)


def test_pytorchs_allocator_agrees():
    # Without convolutions, which take workspaces that differ from processor to processor.
    model = nn.Sequential(nn.ZeroPad2d(10), nn.AvgPool2d(3, 1), nn.ZeroPad2d(38), nn.AvgPool2d(4))
    x = torch.randn(1, 8, 20, 20)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profiler:
        model(x)
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    at_peak = FLOAT * 8 * (38**2 + (3 * 38) ** 2)
    assert measure_cost(model, x).peak_memory_bytes == at_peak
    assert at_peak <= most <= 1.01 * at_peak


@pytest.mark.parametrize("name", ["resnet18"])
def test_onnx_runtimes_arena_agrees(name):
    spec = importlib.util.spec_from_file_location("memory_check", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    model, example = torchvision.models.get_model(name).eval(), torch.zeros(1, 3, 112, 112)
    arena = benchmark.arena_bytes(model, example)
    ours = measure_cost(model, example).peak_memory_bytes
    # The arena holds the peak and what fragmentation adds; it does not hold the input.
    assert ours - FLOAT * 3 * 112 * 112 <= arena <= 1.5 * ours

"""Failures told apart, each really provoked where this machine can."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ghostsearch.errors import GhostsearchError, TrainingError, failure_kind, failure_reason
from tests.processes import Started

# More than any machine has, yet no overflow of the byte count.
HUGE = 2**46


def provoked(work) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        work()
    return caught.value


class KilledWorker(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


PROVOKED = {
    "torch on the host": (lambda: torch.empty(HUGE), "out of memory"),
    "numpy": (lambda: np.empty(HUGE), "out of memory"),
    "a data worker killed": (lambda: list(DataLoader(KilledWorker(), num_workers=1)), "worker"),
    "shapes that do not fit": (lambda: nn.Linear(3, 4)(torch.zeros(1, 5)), "model"),
    "wrong labels": (lambda: nn.functional.cross_entropy(torch.zeros(1, 2), torch.tensor([5])), "model"),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_provoked_failures_have_their_kind_and_one_line(name):
    work, kind = PROVOKED[name]
    error = provoked(work)
    assert failure_kind(error) == kind
    reason = failure_reason(error)
    assert "\n" not in reason
    assert type(error).__name__ in reason
    assert reason.startswith(kind) == (kind != "model")


MESSAGES = {
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of": "out of memory",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported": "out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "out of memory",
    "CUDA error: device-side assert triggered": "device",
    "CUDA error: the launch timed out and was terminated": "device",
    "No CUDA GPUs are available": "device",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED": "device",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer": "out of memory",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_of_devices_that_this_machine_may_lack(message):
    assert failure_kind(RuntimeError(message)) == MESSAGES[message]


def test_our_own_errors_are_told_in_their_own_words():
    assert failure_kind(TrainingError("the loss is not finite by step 3")) == "training"
    assert failure_reason(TrainingError("the loss is not finite by step 3")) == "the loss is not finite by step 3"
    assert failure_kind(GhostsearchError("no data set 'x'")) == "input"
    assert failure_reason(ValueError()) == "ValueError"


def test_training_under_a_real_memory_limit_is_out_of_memory(tmp_path):
    """A child process with a bounded address space trains a network that does not fit into it."""
    process = Started(tmp_path / "said", train_beyond_memory)
    assert process.wait() == 0, process.said()
    assert process.said().splitlines()[-1] == "out of memory"


def train_beyond_memory():
    model, images = nn.Conv2d(3, 256, 3, padding=1), torch.zeros(8, 3, 32, 32)
    model(images).sum().backward()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    try:
        model(torch.zeros(64, 3, 256, 256)).sum().backward()
    except RuntimeError as error:
        print(failure_kind(error))

"""Sets that stream from disk give what sets in memory give."""

from __future__ import annotations

import pickle

import pytest
import torch

import ghostsearch.data.load
from ghostsearch.data.calibration import calibration_batches
from ghostsearch.data.load import load_data
from ghostsearch.data.sets import StreamSet
from ghostsearch.errors import GhostsearchError


@pytest.fixture
def streamed(write_digits, digit_input, tmp_path, monkeypatch):
    """The same folder twice: in memory, and as if it were too large for that."""
    write_digits(tmp_path)
    spec = f"folder:{tmp_path}"
    in_memory = load_data(spec, input=digit_input, batch=8)
    monkeypatch.setattr(ghostsearch.data.load, "MEMORY_LIMIT_BYTES", 0)
    return in_memory, load_data(spec, input=digit_input, batch=8, workers=2), tmp_path


def test_unaugmented_batches_are_the_same_as_from_memory(streamed):
    in_memory, stream, _ = streamed
    assert isinstance(stream.train.dataset, StreamSet)
    for a, b in zip(in_memory.test, stream.test, strict=True):
        torch.testing.assert_close(a[0], b[0])
        assert torch.equal(a[1], b[1])
    torch.testing.assert_close(
        torch.cat(list(calibration_batches(in_memory, 12))), torch.cat(list(calibration_batches(stream, 12)))
    )


def test_an_epoch_is_the_seeds_also_through_workers(streamed):
    _, stream, _ = streamed
    epochs = []
    for seed in (5, 5, 6):
        stream.train.generator.manual_seed(seed)
        epochs.append(torch.cat([x for x, _ in stream.train]))
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])


def test_a_file_that_breaks_later_is_left_out_with_a_warning(streamed, digit_input):
    _, stream, root = streamed
    dataset = stream.test.dataset
    first = root / dataset.source.names[dataset.positions[0]]
    # The header still parses: only decoding shows it.
    first.write_bytes(first.read_bytes()[:45])
    with pytest.warns(UserWarning, match="broken image left out"):
        x, y = dataset.__getitems__([0, 1, 2])
    assert len(x) == len(y) == 2
    with pytest.raises(GhostsearchError, match="whole batch"), pytest.warns(UserWarning, match="left out"):
        dataset.__getitems__([0])


def test_header_damage_is_found_before_anything_runs(streamed, digit_input):
    root = streamed[2]
    (root / "class0" / "zzz.png").write_bytes(b"no picture")
    again = load_data(f"folder:{root}", input=digit_input, workers=0)
    assert [line.split(":")[0] for line in again.broken] == ["class0/zzz.png"]


def test_it_travels_to_spawned_workers(streamed):
    _, stream, _ = streamed
    copy = pickle.loads(pickle.dumps(stream.validation.dataset))
    assert torch.equal(copy[0][0], stream.validation.dataset[0][0])

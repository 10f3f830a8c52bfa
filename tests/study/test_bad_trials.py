"""Trials that go wrong, really: each is recorded with its reason, the search goes on, and stops when all fails."""

import resource
import signal
import socket
import sys
import threading

import pytest

from ghostsearch.errors import GhostsearchError, GhostsearchWarning, TrainingError
from ghostsearch.space.limits import Limits
from ghostsearch.study import explore
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import load_study
from ghostsearch.study.pick import pick
from ghostsearch.study.run import search
from ghostsearch.study.setup import Setup
from tests.processes import Started

MODEL = """
import torch
from ghostsearch.blocks.ghost import GhostConv
from tests.small_net import SmallNet

class Moody(SmallNet):
    "Runs out of memory with one choice, raises with another, is not a number with a third."

    def forward(self, x):
        choices = {str(m.choice) for m in self.modules() if isinstance(m, GhostConv)}
        if "ghost(ratio=4, kernel=3)" in choices:
            torch.empty(2**46)
        if "ghost(ratio=3, kernel=3)" in choices:
            raise ValueError("this model does not\\nlike ghosts")
        y = super().forward(x)
        return y * float("nan") if "ghost(ratio=2, kernel=5)" in choices else y
"""


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "moody.yaml"
    choices = ["ghost(ratio=4, kernel=3)", "ghost(ratio=3, kernel=3)", "ghost(ratio=2, kernel=5)"]
    path.write_text(f"include: ['block1.1.project']\nsites:\n  - match: '*'\n    choices: {choices}\n")
    return path


def test_out_of_memory_raising_and_nan_are_recorded_and_the_search_goes_on(tiny, space, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "moody.py").write_text(MODEL)
    options = tiny(tmp_path / "run", model="moody:Moody", seeds="uniform", sampler="random", trials=4)
    view = search(RunConfig(**{**options, "space": str(space), "epochs": 1}))
    baseline, memory, raising, nan = view.records
    assert baseline.state == "complete"
    assert {memory.state, raising.state, nan.state} == {"failed"}
    assert memory.reason.startswith("out of memory: RuntimeError: ")
    assert "'block1.1.project' cannot be replaced" in raising.reason
    assert "ValueError: this model does not" in raising.reason
    assert "not finite" in nan.reason or "not a number" in nan.reason
    assert all("\n" not in r.reason for r in view.records)
    assert "out of memory" in (tmp_path / "run" / "trials.csv").read_text()


def test_a_finalist_whose_final_training_fails_is_recorded_and_the_others_are_finished(tiny, tmp_path, monkeypatch):
    options = tiny(tmp_path / "run", sampler="random", seeds="uniform", final_epochs=1, calibration_images=0)
    train, trained = Setup.train, []

    def failing(setup, model, epochs, progress=None):
        trained.append(model)
        if len(trained) == 2:
            raise TrainingError("the loss is not finite by step 5")
        train(setup, model, epochs, progress)

    monkeypatch.setattr(Setup, "train", failing)
    with pytest.warns(GhostsearchWarning, match="the final training failed .*not finite.*other finalists go on"):
        view = search(RunConfig(**options))
    (bad,) = (r for r in view.finalists if r.state == "failed")
    assert (bad.reason, bad.scores, bad.latencies) == ("the loss is not finite by step 5", (), ())
    others = [r for r in view.finalists if r is not bad]
    assert len(others) >= 3
    assert all(r.score("test") and r.latencies for r in others)
    assert bad.digest not in (*view.front, view.chosen)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "in the final training: the loss is not finite by step 5" in page
    assert "failed: the loss is not finite by step 5" in (tmp_path / "run" / "report.md").read_text()
    assert pick(view, Limits(max_latency="9s")).record.digest != bad.digest, "what failed has no latency to be missed"
    again = search(RunConfig(**options))
    assert {r.state for r in again.finalists} == {"complete"}, "it is tried again"


DEVICE = """
import socket
from ghostsearch.measure.devices.torch_cpu import TorchCpu

class Board(TorchCpu):
    "A board behind a socket: to prepare a model, it must answer."
    name = "npu:board"

    def prepare(self, model, example, options):
        with socket.create_connection(("127.0.0.1", {port}), timeout=60) as line:
            assert line.recv(2) == b"ok"
        return super().prepare(model, example, options)
"""


class Board:
    """The other end: answers until it is taken away."""

    def __init__(self, port=0):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            with line:
                line.sendall(b"ok")

    def take_away(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def test_a_device_that_disappears_stops_the_search_with_a_diagnosis_and_back_again_it_goes_on(
    tiny, tmp_path, monkeypatch
):
    board = Board()
    (tmp_path / "board_device.py").write_text(DEVICE.format(port=board.port))
    info = tmp_path / "board_device-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: board-device\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ghostsearch.devices]\nnpu:board = board_device:Board\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(explore, "FAILURES_IN_A_ROW", failures := 2)
    options = tiny(tmp_path / "run", device="npu:board", seeds="uniform", trials=2)
    search(RunConfig(**options))
    board.take_away()
    longer = {**options, "trials": 2 + failures + 1}
    with pytest.raises(GhostsearchError, match=f"last {failures} trials failed.*refused.*same command again"):
        search(RunConfig(**longer))
    failed = [r for r in load_study(tmp_path / "run").records if r.state == "failed"]
    assert len(failed) == failures
    assert all("refused" in r.reason for r in failed)
    back = Board(board.port)
    view = search(RunConfig(**longer))
    assert len(view.records) == 2 + failures + 1
    assert view.records[-1].state == "complete"
    back.take_away()


def test_broken_images_are_left_out_and_said(tiny, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(200):
        file = tmp_path / "images" / str(digits.target[i]) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype("uint8")).save(file)
    for name in ("0/broken.png", "3/empty.png"):
        (tmp_path / "images" / name).write_bytes(file.read_bytes()[:40] if "broken" in name else b"")
    view = search(RunConfig(**tiny(tmp_path / "run", data=f"folder:{tmp_path / 'images'}", seeds="uniform", trials=2)))
    assert [r.state for r in view.records] == ["complete", "complete"]
    assert "2 broken images left out" in view.notes


def search_on_a_full_disk(options, most_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        search(RunConfig(**options))
    except GhostsearchError as error:
        print(repr(str(error)))
        sys.exit(2)


def test_a_disk_that_fills_is_one_line_and_the_same_command_goes_on(tiny, tmp_path):
    """No file may grow beyond what a database needs at its start, so the weights cannot be kept."""
    options = tiny(tmp_path / "run", trials=2, seeds="uniform", baseline_epochs=0)
    full = Started(tmp_path / "log", search_on_a_full_disk, options, 200_000)
    assert full.wait() == 2, full.said()
    told = full.said().splitlines()[-1]
    assert "cannot be" in told
    assert "\\n" not in told
    view = search(RunConfig(**options))
    assert len(view.records) == 2
    assert not list((tmp_path / "run").rglob(".*.tmp*"))

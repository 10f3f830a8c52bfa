"""Progress by stage, Ctrl-C between kept steps, and the time budget."""

import signal
import time

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.limits import parse_drop, parse_duration
from ghostsearch.study.watch import Watch, interruptible
from ghostsearch.units import duration


def test_progress_names_the_stage_once(tmp_path):
    told = []
    tell = Watch(tmp_path, lambda *what: told.append(what)).telling("fit")
    tell(2, 10, "layer a")
    tell(4, 10, "fit layer b")
    assert told == [(2, 10, "fit: layer a"), (4, 10, "fit layer b")]


def test_progress_says_that_ctrl_c_was_heard(tmp_path):
    told = []
    Watch(tmp_path, lambda *what: told.append(what), interrupted=lambda: True).telling("training")(1, 2, "loss 1")
    assert told == [(1, 2, "training: loss 1 · stopping soon")]


def test_one_interrupt_ends_a_stage_whose_steps_are_kept_and_lets_others_finish(tmp_path):
    with interruptible() as interrupted:
        watch = Watch(tmp_path, interrupted=interrupted)
        kept, whole = watch.telling("table", kept=True), watch.telling("training")
        kept(0, 2, "")
        signal.raise_signal(signal.SIGINT)
        whole(1, 2, "")
        with pytest.raises(KeyboardInterrupt):
            kept(1, 2, "")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_time_budget_counts_from_the_start(tmp_path):
    assert Watch(tmp_path).left_s() == float("inf")
    now = time.perf_counter()
    left = Watch(tmp_path, budget_s=60, started=now - 50).left_s()
    assert 10 >= left >= 10 - (time.perf_counter() - now)


def test_times_and_drops_are_read_and_written_as_people_do():
    assert [parse_duration(t) for t in ("90min", "2h", "1h30m", "45 s")] == [5400, 7200, 5400, 45]
    assert [duration(s) for s in (40, 720, 7500)] == ["40 s", "12 min", "2 h 05 min"]
    assert [parse_drop(t) for t in ("1%", "0.01", "0")] == [0.01, 0.01, 0]
    for parse, wrong in ((parse_duration, "2 days"), (parse_duration, "0h"), (parse_drop, "-1%"), (parse_drop, "x")):
        with pytest.raises(GhostsearchError, match="does not parse"):
            parse(wrong)

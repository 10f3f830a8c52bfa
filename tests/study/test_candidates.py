"""The candidate table: prefixes reused change no figure, rows stand for the space's single changes, it is taken up."""

import pandas as pd
import pytest

from ghostsearch.study import candidates
from ghostsearch.study.bench import open_bench, train_baseline
from ghostsearch.study.candidates import build_candidates, losses_of, read_candidates, single_changes
from ghostsearch.study.config import RunConfig


@pytest.fixture(scope="module")
def bench(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    made = open_bench(RunConfig(**tiny(folder, baseline_epochs=1)))
    train_baseline(made, folder)
    return made


def test_starting_from_what_stands_before_a_change_gives_the_same_figures(bench, tmp_path):
    judge = candidates._Judge(bench)
    assert judge.fitting, "the digits network traces"
    table = build_candidates(bench, tmp_path).set_index(["kind", "name", "choice"])
    for change in single_changes(bench.space):
        model = bench.convert_quickly(candidates.single_change(*change))
        found = judge.probe.judge(model)
        assert table.loc[change].divergence == pytest.approx(found.divergence, rel=1e-4, abs=1e-6)
        assert table.loc[change].score_change == pytest.approx(found.score - judge.probe.baseline.score)
        assert table.loc[change].macs == bench.cost(candidates.single_change(*change)).macs
    assert len(table) == len(list(single_changes(bench.space))) == 2 * 2 + 1


def test_it_goes_on_with_the_rows_that_are_there(bench, tmp_path, monkeypatch):
    whole = build_candidates(bench, tmp_path)
    candidates.write_candidates(tmp_path, whole.iloc[:-1])
    judged = []
    monkeypatch.setattr(candidates._Judge, "__call__", lambda _, *change: judged.append(change) or dict(whole.iloc[-1]))
    again = build_candidates(bench, tmp_path)
    assert judged == [tuple(whole.iloc[-1][["kind", "name", "choice"]])]
    pd.testing.assert_frame_equal(again, whole, check_like=True)
    assert [len(x) for x in losses_of(read_candidates(tmp_path), bench.space)] == [3, 3, 2]

"""The candidate table: laws of its scores, failures as rows, and a table that is taken up where it stopped."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ghostsearch.cli.main import app
from ghostsearch.errors import GhostsearchError
from ghostsearch.models.digits import ConvNormReLU
from ghostsearch.models.load import DIGITS_INPUT
from ghostsearch.space.choice import GONE
from ghostsearch.study import candidates
from ghostsearch.study.baseline import trained_setup
from ghostsearch.study.candidates import (
    build_candidates,
    failed_choices,
    losses_of,
    read_candidates,
    single_changes,
    without_failed,
)
from ghostsearch.study.config import RunConfig
from ghostsearch.study.divergence import CandidateScores, Change, SampledLoss
from ghostsearch.study.run import search
from ghostsearch.study.setup import Setup, open_setup
from ghostsearch.study.solve import solve_study
from ghostsearch.study.watch import Watch
from ghostsearch.training.tasks.base import Task
from ghostsearch.training.tasks.classification import Classification
from tests.labelled_device import ELSEWHERE, ElsewhereMode


@pytest.fixture(scope="module")
def bench(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    return trained_setup(open_setup(RunConfig(**tiny(folder, baseline_epochs=1))), Watch(folder))


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    return build_candidates(bench, tmp_path_factory.mktemp("table"))


def test_every_single_change_has_a_row_with_its_exact_cost(bench, whole):
    assert len(whole) == len(list(single_changes(bench.space))) == 2 * 2 + 1
    assert (whole.divergence > 0).all()
    assert not failed_choices(whole)
    for row in whole.itertuples(index=False):
        assert row.macs == bench.cost(Change(row.kind, row.name, row.choice).architecture).macs
    assert [len(x) for x in losses_of(whole, bench.space)] == [3, 3, 2]


def test_the_same_seed_gives_the_same_table(bench, whole, tmp_path):
    pd.testing.assert_frame_equal(build_candidates(bench, tmp_path), whole)


def test_the_table_is_computed_on_the_device_of_the_run(bench, whole):
    there = replace(bench, config=bench.config.model_copy(update={"compute_device": str(ELSEWHERE)}))
    changes = [c for c in single_changes(bench.space) if c.kind == "site"]
    with ElsewhereMode() as mode:
        scores = CandidateScores(there)
        found = {c.name + c.choice: scores(c) for c in scores.prepare(changes)}
    assert mode.computed > 300
    known = {r.name + r.choice: r.divergence for r in whole.itertuples(index=False)}
    assert found == pytest.approx({key: known[key] for key in found}, rel=0.02)


def test_a_site_that_stays_what_it_is_scores_nothing(bench, monkeypatch):
    scores = CandidateScores(bench)
    (change, *_) = scores.prepare(single_changes(bench.space))
    assert scores.cuts, "the digits network traces"
    monkeypatch.setattr(
        Setup, "convert_quickly", lambda self, *_: self.convert(Change("site", "x", "keep").architecture)
    )
    assert scores(change) == pytest.approx(0, abs=1e-9)


def test_the_score_estimates_the_divergence_of_the_whole_model(bench, whole):
    """Not to the digit: one label is drawn per image, and the divergence is not quadratic."""
    inputs = torch.cat([x for x, _ in CandidateScores(bench).batches])
    ours, real = [], []
    with torch.no_grad():
        baseline = bench.baseline.module.eval()(inputs).log_softmax(1)
        for row in whole.itertuples(index=False):
            model = bench.convert_quickly(Change(row.kind, row.name, row.choice).architecture).eval()
            found = model(inputs).log_softmax(1)
            real.append(float((baseline.exp() * (baseline - found)).sum(1).mean()))
            ours.append(row.divergence)
    assert pd.Series(ours).corr(pd.Series(real), method="kendall") >= 0.6


def test_a_model_that_cannot_be_traced_is_scored_at_its_output(bench, whole, monkeypatch, tmp_path):
    monkeypatch.setattr(CandidateScores, "_traced_pass", lambda _: None)
    found = build_candidates(bench, tmp_path).set_index(["kind", "name", "choice"]).divergence
    both = found.align(whole.set_index(["kind", "name", "choice"]).divergence)
    assert both[0].corr(both[1], method="kendall") >= 0.6


def test_a_change_that_fails_is_a_row_and_leaves_the_space(bench, whole, monkeypatch, tmp_path):
    convert = Setup.convert_quickly
    bad = next(single_changes(bench.space))

    def fails(self, architecture, *rest):
        if architecture == bad.architecture:
            raise RuntimeError("out of luck\nand more")
        return convert(self, architecture, *rest)

    monkeypatch.setattr(Setup, "convert_quickly", fails)
    table = build_candidates(bench, tmp_path)
    assert failed_choices(table) == {(bad.kind, bad.name, bad.choice): "RuntimeError: out of luck"}
    others = whole[~((whole.name == bad.name) & (whole.choice == bad.choice))]
    assert len(table) == len(others) + 1
    left = without_failed(bench.space, table)
    assert bad.choice not in left.sites[bad.name]
    assert len(left.sites[bad.name]) == len(bench.space.sites[bad.name]) - 1
    assert left.groups == bench.space.groups
    assert [len(x) for x in losses_of(table, left)] == [2, 3, 2]


def test_a_loss_that_is_no_number_is_a_failure(bench, monkeypatch, tmp_path):
    bad = next(single_changes(bench.space))
    score = CandidateScores.__call__
    monkeypatch.setattr(CandidateScores, "__call__", lambda s, c: float("nan") if c == bad else score(s, c))
    assert failed_choices(build_candidates(bench, tmp_path)) == {
        (bad.kind, bad.name, bad.choice): "what this choice loses comes out as nan"
    }


def test_when_every_change_fails_the_reason_is_the_error(bench, monkeypatch, tmp_path):
    def fails(self, *_):
        raise RuntimeError("no luck at all")

    monkeypatch.setattr(Setup, "convert_quickly", fails)
    with pytest.raises(GhostsearchError, match="no luck at all"):
        build_candidates(bench, tmp_path)


def test_an_interrupt_keeps_what_is_done_and_the_next_run_goes_on(bench, whole, monkeypatch, tmp_path):
    score, asked = CandidateScores.__call__, []

    def stop_at_third(self, change):
        asked.append(change)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return score(self, change)

    monkeypatch.setattr(CandidateScores, "__call__", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build_candidates(bench, tmp_path)
    assert len(read_candidates(tmp_path)) == 2
    build_candidates(bench, tmp_path)
    assert len(asked) == 3 + len(whole) - 2
    keys = ["kind", "name", "choice"]
    pd.testing.assert_frame_equal(
        read_candidates(tmp_path).sort_values(keys).reset_index(drop=True),
        whole.sort_values(keys).reset_index(drop=True),
    )


def test_targets_are_drawn_alike_and_of_any_task():
    class Distance(Task):
        metric = "distance"

        def loss(self, output, target):
            return (output - target).square().mean()

        def meter(self):
            raise NotImplementedError

    alone = torch.ones(1, 1, requires_grad=True)
    assert SampledLoss(Distance(), 3)(alone, 0).isfinite(), "a last batch of one image with one output"
    for task, shape in ((Classification(), (4, 7)), (Distance(), (4, 2, 3, 3))):
        output = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        grads = [torch.autograd.grad(SampledLoss(task, 3)(output, b), output)[0] for b in (0, 0, 1)]
        assert grads[0].abs().sum() > 0
        assert torch.equal(grads[0], grads[1])
        assert not torch.equal(grads[0], grads[2])


def test_a_table_of_an_older_run_is_read(bench, whole, tmp_path):
    candidates.write_candidates(tmp_path, whole.drop(columns="failed"))
    pd.testing.assert_frame_equal(build_candidates(bench, tmp_path), whole.drop(columns="failed"))


class Branches(nn.Module):
    """A branch of one width and one that is narrow inside. x: (N, 1, 8, 8) -> (N, 10)"""

    input_spec = DIGITS_INPUT

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormReLU(1, 16, stride=2)
        self.same, self.narrow = (
            nn.Sequential(ConvNormReLU(16, inside), nn.Conv2d(inside, 16, 3, padding=1), nn.BatchNorm2d(16))
            for inside in (16, 8)
        )
        self.head = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(16, 10)

    def forward(self, x):
        y = self.stem(x)
        y = (y + self.same(y)).relu()
        return self.classifier(self.head((y + self.narrow(y)).relu()))


def test_a_branch_that_goes_is_fitted_to_what_it_reads(tiny, tmp_path, monkeypatch):
    """The passes that all changes share have not gone into the branch before it goes."""
    given = tiny(tmp_path, model="tests.study.test_candidates:Branches", space="families")
    bench = trained_setup(open_setup(RunConfig(**given | {"baseline_epochs": 1})), Watch(tmp_path))
    changes = [c for c in single_changes(bench.space) if c.choice in GONE]
    assert {c.name for c in changes} == {"same.1", "narrow.1"}
    scores, quickly = CandidateScores(bench), Setup.convert_quickly
    for change in scores.prepare([*changes, *(Change("site", b, "ghost(ratio=2, kernel=3)") for b in scores.branches)]):
        made: list[nn.Module] = []
        monkeypatch.setattr(Setup, "convert_quickly", lambda *a, made=made: made.append(quickly(*a)) or made[0])
        assert scores(change) > 0
        alone = quickly(bench, change.architecture).state_dict()
        for name, value in made[0].state_dict().items():
            torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-4)


def test_without_a_table_the_command_that_builds_one_is_named_and_does(tiny, tmp_path):
    folder = tmp_path / "run"
    search(RunConfig(**tiny(folder, sampler="random", seeds="uniform", trials=1, baseline_epochs=1)))
    with pytest.raises(GhostsearchError, match="no candidate table; 'ghostsearch search --config ") as refused:
        solve_study(folder, {})
    (folder / candidates.FILE).write_bytes(b"broken")
    with pytest.raises(GhostsearchError, match=r"no candidate table can be read .*; delete it, then ") as broken:
        read_candidates(folder)
    (folder / candidates.FILE).unlink()
    command = str(refused.value).split("'")[1]
    assert command in str(broken.value)
    assert CliRunner().invoke(app, command.split()[1:], catch_exceptions=False).exit_code == 0
    assert solve_study(folder, {})
    assert len(read_candidates(folder)) == 5

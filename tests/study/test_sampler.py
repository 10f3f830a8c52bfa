"""Every sampler keeps the same promises; the table's learns, keeps to limits and beats a random search."""

import pickle
from itertools import islice, product

import numpy as np
import optuna
import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Axis, Cost, Latency, Record, Score
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.interactions import decompose
from ghostsearch.study.ledger import Ledger, distributions
from ghostsearch.study.program import Problem, solve_budgets
from ghostsearch.study.sampler import OPENING, RUNGS, TableSampler
from ghostsearch.study.store import open_storage

GHOSTS = ("keep", "ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)")
SPACE = SearchSpace(dict.fromkeys("abcdef", GHOSTS), dict.fromkeys("gh", ("width(1)", "width(0.5)")))
PARAMETERS = {name: tuple(d.choices) for name, d in distributions(SPACE).items()}
DEVICE = "onnxruntime:cpu"
AXES = (Axis.of_score("accuracy"), Axis.of_cost("macs"), Axis.of_latency(DEVICE))
NAMES = tuple(axis.name for axis in AXES)
TRIALS = {"table": 15, "tpe": 12, "nsga2": 14, "gp": 11, "random": 8}
"""By sampler: enough that it has learnt something."""


def costs(codes):
    """MACs and latency: each site's share, halved by a group that four of them read."""
    width = np.stack([np.where(codes[:, 6 + i // 3], 0.5, 1.0) for i in range(6)], 1)
    sites = np.array([1.0, 0.5, 0.25])[codes[:, :6]] * width * np.arange(1, 7)
    macs = 1e6 * (2 + sites.sum(1))
    return np.stack([macs, 1e-3 * (2 + sites.sum(1) ** 0.9 + 0 * macs)])


PROBLEM = Problem(
    [np.array([0, 0.01, 0.05]) * (i + 1) for i in range(6)] + [np.array([0, 0.2])] * 2,
    decompose(lambda codes: np.stack([costs(codes)[0], costs(codes)[0] * 1e-9]), (3,) * 6 + (2,) * 2),
    ("macs", f"latency_s[{DEVICE}]"),
)
EVERY = np.array(list(product(*(range(n) for n in PROBLEM.sizes))))
TRUTH = [x * np.append(0, np.random.default_rng(5).uniform(0.4, 1.6, len(x) - 1)) for x in PROBLEM.losses]


def code_of(params):
    return tuple(options.index(params[name]) for name, options in PARAMETERS.items())


def accuracy(code):
    return round(0.95 - 0.4 * sum(x[i] for x, i in zip(TRUTH, code, strict=True)), 3)


def evaluate(architecture, ledger, number=0):
    code = code_of(ledger.parameters(architecture))
    macs, latency_s = costs(np.array([code]))[:, 0]
    return Record(
        number=number, digest=architecture.digest, origin="sampler", state="complete",
        sites={k: str(v) for k, v in architecture.sites.items()},
        groups={k: str(v) for k, v in architecture.groups.items()},
        cost=Cost(params=1, macs=int(macs), size_bytes=1),
        latencies=(Latency(device=DEVICE, threads=1, batch=1, times_s=(latency_s,)),),
        scores=(Score(metric="accuracy", value=accuracy(code), split="validation", epochs=0, images=100, seed=0),),
    )  # fmt: skip


def table_sampler(**options):
    return TableSampler(PROBLEM, PARAMETERS, NAMES, **options)


def open_ledger(folder, sampler, seed=0):
    chosen = table_sampler() if sampler == "table" else sampler
    return Ledger(open_storage(f"journal:{folder / 'log'}", folder), "s", SPACE, AXES, sampler=chosen, seed=seed)


def accepts(architecture):
    return architecture.is_baseline or not architecture.groups


def run(ledger, trials):
    found = []
    for _ in range(trials):
        proposal = ledger.ask(accepts)
        ledger.finish(proposal, evaluate(proposal.architecture, ledger))
        found.append(proposal.architecture)
    return found


@pytest.mark.parametrize("sampler", TRIALS)
def test_a_study_from_nothing_has_no_architecture_twice_and_none_that_is_refused(sampler, tmp_path):
    found = run(open_ledger(tmp_path, sampler), TRIALS[sampler])
    assert len({a.digest for a in found}) == len(found)
    assert all(accepts(a) for a in found)


@pytest.mark.parametrize("sampler", TRIALS)
def test_the_seed_decides_and_a_resumed_study_goes_on_as_the_whole_one_would(sampler, tmp_path):
    for name in ("whole", "parts", "other"):
        (tmp_path / name).mkdir()
    trials = TRIALS[sampler]
    whole = run(open_ledger(tmp_path / "whole", sampler), trials)
    first = run(open_ledger(tmp_path / "parts", sampler), trials - 3)
    assert first + run(open_ledger(tmp_path / "parts", sampler), 3) == whole
    assert run(open_ledger(tmp_path / "other", sampler, seed=1), trials) != whole


def study_of(sampler):
    return optuna.create_study(directions=("maximize", "minimize", "minimize"), sampler=sampler)


def objective(trial):
    code = code_of({name: trial.suggest_categorical(name, options) for name, options in PARAMETERS.items()})
    return accuracy(code), *costs(np.array([code]))[:, 0]


def test_in_anybodys_own_study_it_begins_with_the_baseline_and_the_solvers_own_answers():
    study = study_of(table_sampler(seed=3))
    study.optimize(objective, n_trials=12)
    codes = [code_of(t.params) for t in study.trials]
    answers = list(islice(solve_budgets(PROBLEM, PROBLEM.names), OPENING))
    assert codes[: OPENING + 1] == [(0,) * 8, *answers]
    assert len(set(codes)) == 12


@pytest.mark.parametrize("seed", range(3))
def test_what_it_learns_brings_it_closer_to_the_best_than_the_table_and_a_random_search(seed):
    grid = np.stack(np.meshgrid(*(range(s) for s in PROBLEM.sizes), indexing="ij"), -1).reshape(-1, 8)
    scores, macs = np.array([accuracy(c) for c in grid]), costs(grid)[0]

    def regret(study):
        """How far the best score under each of many budgets is from the best there is."""
        points = np.array([t.values[:2] for t in study.trials])
        return sum(
            scores[macs <= budget].max() - max(points[points[:, 1] <= budget, 0], default=0.5)
            for budget in np.linspace(np.sort(macs)[20], macs.max(), 30)
        )

    ours, random = study_of(table_sampler(seed=seed)), study_of(optuna.samplers.RandomSampler(seed=seed))
    for study in (ours, random):
        study.optimize(objective, n_trials=40)
    assert regret(ours) < 0.5 * regret(random)


def test_limits_hold_with_a_margin_and_latencies_are_corrected_by_what_was_measured():
    limit = 13e-3
    sampler = table_sampler(limits={NAMES[2]: limit})
    study = study_of(sampler)
    study.optimize(objective, n_trials=40)
    measured = [t.values[2] for t in study.trials[1:]]
    predicted = [PROBLEM.at(code_of(t.params))[NAMES[2]] for t in study.trials[1:]]
    assert max(predicted[:4]) <= 0.98 * limit
    assert max(measured) <= limit
    codes = np.array([code_of(t.params) for t in study.trials[20:]])
    corrected = sampler.beliefs.amounts(codes)[NAMES[2]]
    assert np.abs(corrected - measured[19:]).mean() < 0.3 * np.abs(np.array(predicted[19:]) - measured[19:]).mean()


def test_under_a_limit_every_second_proposal_spends_it():
    limit = 0.6 * costs(np.zeros((1, 8), dtype=int))[0, 0]
    study = study_of(table_sampler(limits={"macs": limit}))
    study.optimize(objective, n_trials=OPENING + 13)
    spent = [t.values[1] / limit for t in study.trials[OPENING + 1 :]]
    assert sum(share > 0.85 for share in spent) >= len(spent) // 2


def test_a_limit_within_the_predictions_error_of_the_least_is_tried_with_what_comes_nearest():
    least = PROBLEM.at((2,) * 6 + (1, 1))[NAMES[2]]
    study = study_of(table_sampler(limits={NAMES[2]: 1.01 * least}))
    study.optimize(objective, n_trials=3)
    assert [code_of(t.params) for t in study.trials[:2]] == [(0,) * 8, (2,) * 6 + (1, 1)]


def test_a_trial_that_its_latency_ruled_out_still_teaches():
    sampler = table_sampler(limits={NAMES[2]: 5e-3})
    study = study_of(sampler)
    for params in ({}, {"a": GHOSTS[1]}):
        study.enqueue_trial({**{name: options[0] for name, options in PARAMETERS.items()}, **params})
        trial = study.ask()
        for name, options in PARAMETERS.items():
            trial.suggest_categorical(name, options)
        trial.set_constraint(NAMES[2], 0.01)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    sampler.suggest(study)
    assert sampler.beliefs.corrections[NAMES[2]].count == 1


def test_scores_after_training_are_learnt_apart_from_those_before():
    rng, beliefs = np.random.default_rng(0), table_sampler().beliefs
    beliefs.tell((0,) * 8, {0.0: 0.95}, {})
    for i in range(80):
        code = tuple(int(rng.integers(n)) for n in PROBLEM.sizes)
        trained = 0.95 - 0.2 * sum(x[j] for x, j in zip(TRUTH[:3], code, strict=False))
        beliefs.tell(code, {0.0: accuracy(code)} if i % 2 else {0.0: accuracy(code), 1.0: trained}, {})
    rung = beliefs.rung
    drawn = rung.losses.entries(beliefs.draw(rng))
    assert rung.losses.count == 40
    assert np.concatenate(drawn[:3]) == pytest.approx(0.2 * np.concatenate(TRUTH[:3]), abs=0.01)
    assert max(abs(x).max() for x in drawn[3:]) < 0.01, "what training mends costs nothing"


def test_a_study_has_the_rungs_in_an_attribute():
    sampler = table_sampler()
    study = study_of(sampler)
    for i in range(5):
        params = {**{name: options[0] for name, options in PARAMETERS.items()}, "a": GHOSTS[1] if i else "keep"}
        params["b"] = GHOSTS[i % 3]
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=sampler.infer_relative_search_space(study, None),
                values=[0.9, 1e7, 1e-2], user_attrs={RUNGS: {"0": 0.8, "3": 0.9}},
            )
        )  # fmt: skip
    sampler.suggest(study)
    assert sampler.beliefs.rung is sampler.beliefs._rungs[3.0]


def test_what_runs_or_was_refused_is_not_proposed():
    sampler = table_sampler()
    study = study_of(sampler)
    first = [sampler.suggest(study)]
    for _ in range(5):
        first.append(sampler.suggest(study, besides=first))
    assert len({tuple(p.values()) for p in first}) == 6
    assert sampler.suggest(study) == first[0], "besides holds for one call"


def test_what_is_left_is_found_before_anything_comes_again():
    """The last architecture is one that is hardly ever drawn."""
    sampler, last = table_sampler(seed=1), (2,) * 6 + (1,) * 2
    sampler._taken.update(code for code in map(tuple, EVERY.tolist()) if code != last)
    assert sampler._anything(np.random.default_rng(0)) == last


def test_thousands_of_trials_cost_milliseconds_an_ask():
    import time

    def seconds(trials):
        rng = np.random.default_rng(0)
        sampler = TableSampler(WIDE, {f"p{i}": ("x", "y", "z") for i in range(30)}, ("score", "macs"))
        for _ in range(trials):
            code = tuple(rng.integers(3, size=30).tolist())
            sampler.beliefs.tell(code, {0.0: 1 - WIDE.loss(code) + rng.normal(0, 0.01)}, {})
        sampler.beliefs.tell((0,) * 30, {0.0: 1.0}, {})
        sampler._taken.add((0,) * 30)
        sampler.propose(rng)
        start = time.process_time()
        for _ in range(5):
            sampler.propose(rng)
        return (time.process_time() - start) / 5

    assert seconds(3000) < 3 * seconds(100) + 0.02


WIDE = Problem(
    [np.array([0, 0.01, 0.02])] * 30,
    decompose(lambda codes: (100 - codes.sum(1, keepdims=True).T).astype(float), (3,) * 30),
    ("macs",),
)


@pytest.mark.parametrize(
    ("parameters", "objectives", "message"),
    [({"a": ("x", "y")}, ("score",), "in the table's order"), (PARAMETERS, ("macs",), "none is 'score'")],
)
def test_what_does_not_fit_the_table_is_refused(parameters, objectives, message):
    with pytest.raises(GhostsearchError, match=message):
        TableSampler(PROBLEM, parameters, objectives)


def test_a_pickled_sampler_goes_on_with_the_solvers_answers():
    sampler = table_sampler()
    study = study_of(sampler)
    study.optimize(objective, n_trials=3)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.suggest(study) == sampler.suggest(study)


def test_threads_share_a_sampler_without_repeating_each_other():
    study = study_of(table_sampler())
    study.optimize(objective, n_trials=40, n_jobs=4)
    codes = [code_of(t.params) for t in study.trials]
    assert len(set(codes)) == len(codes) == 40


@pytest.mark.parametrize("state", ["pruned", "failed"])
def test_a_baseline_without_a_score_does_not_end_the_learning(state):
    def without_baseline(trial):
        values = objective(trial)
        if not any(code_of(trial.params)):
            raise optuna.TrialPruned if state == "pruned" else RuntimeError
        return values

    study = study_of(table_sampler())
    study.optimize(without_baseline, n_trials=30, catch=RuntimeError)
    rung = study.sampler.beliefs.rung
    assert rung is not None
    assert rung.losses.count == 28, "the last one is learnt when the next is asked for"
    codes = EVERY[EVERY.any(1)]
    wrong = [accuracy(code) for code in codes] + rung.losses.features(codes) @ rung.losses.posterior().mean
    assert np.std(wrong) < 0.02, "but for a constant, the losses are known"


def test_what_meets_the_limits_comes_before_what_does_not():
    macs = costs(EVERY)[0]
    limit = float(np.sort(macs)[29])
    within = int((macs <= limit).sum())
    study = study_of(table_sampler(limits={"macs": limit}))
    study.optimize(objective, n_trials=within + 4)
    over = [t.values[1] > limit for t in study.trials]
    assert over == [True] + [False] * within + [True] * 3, "the baseline, all that is within, then the rest"


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (("maximize", "minimize"), "2 objectives of the study, 3 of the sampler"),
        (("maximize", "maximize", "minimize"), "objective macs: minimise it"),
    ],
)
def test_a_study_with_other_objectives_is_refused(directions, message):
    with pytest.raises(GhostsearchError, match=message):
        table_sampler().suggest(optuna.create_study(directions=directions))


def test_a_sampler_learns_from_one_study():
    sampler = table_sampler()
    study_of(sampler).optimize(objective, n_trials=3)
    with pytest.raises(GhostsearchError, match="another study"):
        sampler.suggest(study_of(sampler))


def test_an_unknown_limit_is_refused():
    with pytest.raises(GhostsearchError, match="limits on max_macs: the table has macs, latency_s"):
        table_sampler(limits={"max_macs": 3.0})


def test_scores_by_epochs_that_are_none_are_named():
    study = study_of(sampler := table_sampler())
    trial = study.ask()
    values = objective(trial)
    trial.set_user_attr(RUNGS, [0.9])
    study.tell(trial, values)
    with pytest.raises(GhostsearchError, match=r"trial 0: user attribute 'rungs' is scores by epochs"):
        sampler.suggest(study)

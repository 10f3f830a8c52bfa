"""The study's storage: what a dead process leaves keeps its place; duplicates and infeasible ones cost nothing."""

import multiprocessing
import resource
import signal
import socket
import sqlite3
import time
from functools import partial

import optuna
import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import Axis, Cost, Latency
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.study.ledger import MAX_DEATHS, OWNER, Ledger, architecture_of, failed_record
from ghostsearch.study.owners import STALE_S
from ghostsearch.study.plan import uniform_seeds
from ghostsearch.study.store import open_storage
from tests.processes import Started

SPACE = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)"), "b": ("keep", "ghost(ratio=2, kernel=3)")},
                    {"g": ("width(1)", "width(0.5)")})  # fmt: skip
OBJECTIVES = (
    Axis(name="score", label="accuracy", unit="", maximize=True),
    Axis(name="macs", label="macs", unit="MACs", maximize=False),
)


EVERYWHERE = pytest.mark.parametrize("reopen", ["sqlite", "journal", "postgresql", "mysql"], indirect=True)


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def reopen(request, tmp_path):
    match request.param:
        case "sqlite":
            storage = None
        case "journal":
            storage = f"journal:{tmp_path / 'log'}"
        case server:
            storage = request.getfixturevalue(server)
    name = str(tmp_path)
    return lambda space=SPACE: Ledger(open_storage(storage, tmp_path), name, space, OBJECTIVES, sampler="tpe", seed=0)


def fail(ledger, proposal):
    return ledger.finish(proposal, failed_record(proposal.architecture, proposal.origin, "x"))


@pytest.mark.parametrize("finished", [0, 2, 6])
def test_a_dead_owners_trial_is_proposed_again_in_its_place(reopen, finished):
    ledger = reopen()
    ledger.enqueue(uniform_seeds(SPACE))
    for _ in range(finished):
        fail(ledger, ledger.ask(lambda a: True))
    lost = ledger.ask(lambda a: True)
    ledger._storage.set_trial_user_attr(lost.trial_id, OWNER, f"{socket.gethostname()}:999999999:1.0")
    again = reopen()
    again.enqueue(uniform_seeds(SPACE))
    proposal = again.ask(lambda a: True)
    assert (proposal.architecture, proposal.origin) == (lost.architecture, lost.origin)


def test_a_living_owners_trial_is_left_alone_and_not_proposed_twice(reopen):
    first, second = reopen(), reopen()
    taken = [first.ask(lambda a: True).architecture.digest for _ in range(3)]
    assert second.running() == 3
    assert second.ask(lambda a: True).architecture.digest not in taken


def test_the_callers_logging_of_optuna_stays_as_it_is(reopen, capfd, request):
    request.addfinalizer(partial(optuna.logging.set_verbosity, optuna.logging.get_verbosity()))
    optuna.logging.set_verbosity(optuna.logging.INFO)
    ledger = reopen()
    ledger.enqueue(uniform_seeds(SPACE))
    fail(ledger, ledger.ask(lambda a: True))
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert "study created" not in capfd.readouterr().err


def test_the_space_is_exhausted_without_repetition(reopen):
    ledger, seen = reopen(), []
    while (proposal := ledger.ask(lambda a: "b" not in a.sites)) is not None:
        seen.append(proposal.architecture.digest)
        fail(ledger, proposal)
    assert len(seen) == len(set(seen)) == 2 * 2


WIDE = SearchSpace(dict.fromkeys("abcdef", ("keep", "ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)")), {})


def ask_until_full(reopen, told):
    ledger = reopen(WIDE)
    while (proposal := ledger.ask(lambda a: True, 30)) is not None:
        fail(ledger, proposal)
        told.put(proposal.architecture.digest)


@EVERYWHERE
def test_processes_that_ask_at_once_take_each_architecture_once_and_no_trial_too_many(reopen):
    reopen(WIDE).enqueue([(a, o) for a, o in uniform_seeds(WIDE)])
    fork = multiprocessing.get_context("fork")
    told = fork.Queue()
    workers = [fork.Process(target=ask_until_full, args=(reopen, told)) for _ in range(3)]
    for worker in workers:
        worker.start()
    digests = [told.get(timeout=200) for _ in range(30)]
    for worker in workers:
        worker.join(timeout=200)
        assert worker.exitcode == 0
    assert len(set(digests)) == 30
    assert told.empty()
    assert {r.digest for r in reopen(WIDE).records()} == set(digests)


def test_a_silent_worker_on_another_machine_loses_its_trial_to_a_living_one(reopen):
    first, second = reopen(), reopen()
    lost = first.ask(lambda a: True)
    first._storage.set_trial_user_attr(lost.trial_id, OWNER, "elsewhere:1:1.0")
    assert second.ask(lambda a: True).architecture != lost.architecture, "it gave a sign of life just now"
    first.beat(lost, time.time() - STALE_S - 1)
    taken = second.ask(lambda a: True)
    assert (taken.number, taken.architecture) == (lost.number, lost.architecture)
    assert fail(second, taken)
    assert not fail(first, lost), "the late one is told so, and its record dropped"
    assert len(second.records()) == 1


def test_a_trial_that_kills_every_process_is_recorded_as_failed(reopen):
    ledger = reopen()
    for _ in range(MAX_DEATHS):
        lost = ledger.ask(lambda a: True)
        ledger._storage.set_trial_user_attr(lost.trial_id, OWNER, f"{socket.gethostname()}:999999999:1.0")
    following = ledger.ask(lambda a: True)
    assert following.number > lost.number
    (record,) = ledger.records()
    assert (record.digest, record.state) == (lost.architecture.digest, "failed")
    assert "processes died" in record.reason


@EVERYWHERE
def test_long_records_come_back_whole(reopen):
    ledger, times = reopen(), tuple(i * 1.000001e-3 for i in range(1, 9000))
    proposal = ledger.ask(lambda a: True)
    latency = Latency(device="torch:cpu", threads=1, batch=1, times_s=times)
    record = failed_record(proposal.architecture, "sampler", "é" * 200).model_copy(update={"latencies": (latency,)})
    ledger.finish(proposal, record)
    assert reopen().records() == [record]
    (standing,) = reopen().standings()
    kept = standing.latencies[0]
    assert len(kept.times_s) == 5
    assert (kept.median_s, *kept.quartiles_s) == pytest.approx((latency.median_s, *latency.quartiles_s))


def test_a_full_disk_is_one_line_and_what_was_told_stays(tmp_path):
    """The process may write no byte more, as on a full disk."""
    storages = (None, f"journal:{tmp_path / 'log'}")
    full = Started(tmp_path / "said", tell_on_a_full_disk, tmp_path, storages)
    assert full.wait() == 0, full.said()
    for storage in storages:
        assert len(opened(storage, tmp_path).records()) == 1


def opened(storage, folder):
    return Ledger(open_storage(storage, folder), "s", SPACE, OBJECTIVES, sampler="tpe", seed=0)


def tell_on_a_full_disk(folder, storages):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for storage in storages:
        ledger = opened(storage, folder)
        fail(ledger, ledger.ask(lambda a: True))
        proposal = ledger.ask(lambda a: True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
        with pytest.raises(GhostsearchError, match=r"^the study's storage failed: [^\n]*$"):
            fail(ledger, proposal)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_database_of_another_optuna_is_one_line(tmp_path):
    Ledger(open_storage(None, tmp_path), "s", SPACE, OBJECTIVES, sampler="tpe", seed=0)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
        database.execute("UPDATE version_info SET schema_version = 99")
    with pytest.raises(GhostsearchError, match=r"cannot be opened: .*version") as told:
        open_storage(None, tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("storage", ["oracle://x/y", "sqlite://", "postgresql://me:secret@localhost:1/x", "nonsense"])
def test_storages_that_cannot_be(storage, tmp_path):
    with pytest.raises(GhostsearchError) as told:
        open_storage(storage, tmp_path)
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)


def test_a_trial_is_judged_by_the_limits_of_the_run_that_asks_not_of_the_one_that_told_it(tmp_path):
    def opened(limit):
        limited = (OBJECTIVES[0], OBJECTIVES[1].model_copy(update={"limit": limit}))
        return Ledger(open_storage(None, tmp_path), "one", SPACE, limited, sampler="tpe", seed=0)

    first = opened(5.0)
    proposal = first.ask(lambda a: True)
    cost = Cost(params=1, macs=7, size_bytes=4)
    first.finish(proposal, failed_record(proposal.architecture, "x", "over").model_copy(
        update={"state": "pruned", "cost": cost}
    ))  # fmt: skip
    again = opened(8.0)
    again.standings()
    (seen,) = again.proposer._view
    assert seen.constraints == {"macs": 7 - 8}


def test_what_lies_in_a_dropped_branch_is_left_out_whoever_names_the_parameters():
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)"), "b": ("keep", "skip")},
                        {"a": ("width(1)", "width(0.5)")}, branches={"b": ("a",)})  # fmt: skip
    drawn = {"a": "ghost(ratio=2, kernel=3)", "b": "skip", "a [width]": "width(0.5)"}
    assert architecture_of(drawn, space) == architecture_of({"b": "skip"}, space)


def test_what_a_tighter_limit_refused_is_proposed_under_a_looser_one(tmp_path):
    ledger = Ledger(open_storage(None, tmp_path), "s", SPACE, OBJECTIVES, sampler="random", seed=0)
    seed = Architecture.of({"a": "ghost(ratio=2, kernel=3)"})
    ledger.enqueue([(seed, "uniform")])
    assert ledger.ask(lambda _: False) is None
    ledger.enqueue([(seed, "uniform")])
    proposal = ledger.ask(lambda _: True)
    assert (proposal.architecture, proposal.origin) == (seed, "uniform")


def test_where_hardly_anything_is_let_through_it_is_looked_for_around_what_is(tmp_path):
    names = [f"s{i}" for i in range(12)]
    space = SearchSpace({name: ("keep", *(f"ghost(ratio={r}, kernel=3)" for r in (2, 3, 4))) for name in names})
    least = Architecture.of(dict.fromkeys(names, "ghost(ratio=4, kernel=3)"))

    def tight(architecture):
        return sum(str(text) == "ghost(ratio=4, kernel=3)" for text in architecture.sites.values()) >= 11

    def proposed(folder, **given):
        folder.mkdir(exist_ok=True)
        ledger = Ledger(open_storage(None, folder), "s", space, OBJECTIVES, sampler="random", seed=0, **given)
        return ledger.ask(tight)

    assert proposed(tmp_path) is None
    assert tight(proposed(tmp_path / "with", cheap=[least]).architecture)

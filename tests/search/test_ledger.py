"""The study's storage: what a dead process leaves keeps its place; duplicates and infeasible ones cost nothing."""

import socket

import pytest

from ghostsearch.records import Objective, Record
from ghostsearch.search.ledger import OWNER, Ledger, open_storage
from ghostsearch.search.seeds import uniform_seeds
from ghostsearch.space import SearchSpace

SPACE = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)"), "b": ("keep", "ghost(ratio=2, kernel=3)")},
                    {"g": ("width(1)", "width(0.5)")})  # fmt: skip
OBJECTIVES = (
    Objective(name="score", label="accuracy", unit="", maximize=True),
    Objective(name="macs", label="macs", unit="MACs", maximize=False),
)


@pytest.fixture(params=["sqlite", "journal"])
def reopen(request, tmp_path):
    storage = None if request.param == "sqlite" else f"journal:{tmp_path / 'log'}"
    return lambda: Ledger(open_storage(storage, tmp_path), "s", SPACE, OBJECTIVES, sampler="tpe", seed=0)


def fail(ledger, proposal):
    record = Record(number=0, digest=proposal.architecture.digest, origin=proposal.origin, state="failed", reason="x")
    ledger.finish(proposal, record)


@pytest.mark.parametrize("finished", [0, 2, 6])
def test_a_dead_owners_trial_is_proposed_again_in_its_place(reopen, finished):
    ledger = reopen()
    ledger.enqueue(uniform_seeds(SPACE))
    for _ in range(finished):
        fail(ledger, ledger.ask(lambda a: True))
    lost = ledger.ask(lambda a: True)
    lost.trial.set_user_attr(OWNER, f"{socket.gethostname()}:999999999:1.0")
    again = reopen()
    assert again.recover() == 1
    again.enqueue(uniform_seeds(SPACE))
    proposal = again.ask(lambda a: True)
    assert (proposal.architecture, proposal.origin) == (lost.architecture, lost.origin)


def test_a_living_owners_trial_is_left_alone_and_not_proposed_twice(reopen):
    first, second = reopen(), reopen()
    taken = [first.ask(lambda a: True).architecture.digest for _ in range(3)]
    assert second.recover() == 0
    assert second.running() == 3
    assert second.ask(lambda a: True).architecture.digest not in taken


def test_the_space_is_exhausted_without_repetition(reopen):
    ledger, seen = reopen(), []
    while (proposal := ledger.ask(lambda a: "b" not in a.sites)) is not None:
        seen.append(proposal.architecture.digest)
        fail(ledger, proposal)
    assert len(seen) == len(set(seen)) == 2 * 2

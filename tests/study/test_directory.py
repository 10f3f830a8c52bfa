"""A study's directory: its name, and those that earlier versions wrote."""

import contextlib
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from filelock import FileLock

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import SearchSpace
from ghostsearch.study.baseline import name_of
from ghostsearch.study.config import RunConfig
from ghostsearch.study.directory import (
    CLAIM_LOCK,
    check_directory,
    claimed,
    environment,
    load_study,
    placed,
    write_records,
    write_run,
)
from tests.processes import Started

OLD = Path(__file__).parent / "fixtures" / "study_v1"


def test_a_study_of_version_1_is_read(tmp_path):
    """Written when the baseline was called `plain`; nothing in its directory is changed by reading it."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    view = load_study(folder)
    digests = [r.digest for r in view.records]
    assert digests[0] == "baseline"
    assert len(digests) == 6
    assert view.finalists[-1].digest == "baseline" or "baseline" in {r.digest for r in view.finalists}
    assert view.chosen in view.front
    for record in view.finalists:
        for latency in record.latencies:
            assert latency.baseline_median_s is None or latency.baseline_median_s > 0
    assert view.int8_layers == (), "it knew of none"
    assert any(latency.ratio for r in view.finalists for latency in r.latencies)


def test_records_beside_a_study_are_read_where_its_storage_is_gone(tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(OLD, folder)
    records = load_study(folder).records
    (folder / "study.db").unlink()
    assert load_study(folder).records == ()
    write_records(folder, records)
    assert load_study(folder).records == records


@pytest.mark.parametrize("front", [{"": None}, [""], ["../elsewhere"], [1], "abc"])
def test_a_front_that_is_no_list_of_digests_is_refused(front, tmp_path):
    shutil.copytree(OLD, tmp_path / "study")
    file = tmp_path / "study" / "outcome.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"front": front}))
    with pytest.raises(GhostsearchError, match=r"damaged|cannot be one of ours"):
        load_study(tmp_path / "study")


def test_a_file_in_the_place_of_a_study_is_one_line(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(GhostsearchError, match=r"out is a file, .*choose another --out"):
        check_directory(tmp_path / "out", RunConfig())


def test_a_link_that_leads_out_is_refused_and_one_that_leads_to_itself_is_no_matter(tmp_path):
    shutil.copytree(OLD, tmp_path / "study")
    link = tmp_path / "study" / "models" / "link"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(link)
    assert load_study(tmp_path / "study").records
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(GhostsearchError, match=r"link leads out of the study"):
        load_study(tmp_path / "study")


def test_a_directory_is_named_after_model_and_date_and_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = RunConfig(model="torchvision:resnet18")
    assert mine.space == "families"
    assert RunConfig().space == "quickstart"
    first = placed(mine)
    assert re.fullmatch(r"resnet18-\d{4}-\d\d-\d\d", first.out)
    write_run(Path(first.out), first)
    assert placed(mine) == first
    other = placed(mine.but(seed=1))
    assert other.out == f"{first.out}.2"
    older = tmp_path / "resnet18-2020-01-01"
    write_run(older, mine.but(seed=1))
    assert placed(mine.but(seed=1)).out == older.name
    assert placed(mine.but(out="mine")).out == "mine"


def test_of_two_searches_that_begin_together_each_gets_a_directory_and_an_empty_one_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = RunConfig(model="torchvision:resnet18")
    with claimed(mine) as first, claimed(mine.but(seed=1)) as second:
        assert Path(second.out).name == f"{first.out}.2"
        write_run(Path(second.out), second)
        with claimed(mine.but(seed=1)) as again:
            assert again == second, "its own study is found"
        # The name that another command takes between the look and the claim.
        monkeypatch.setattr("ghostsearch.study.directory.placed", taken_at_first(placed))
        with claimed(mine) as third:
            assert third.out == f"{first.out}.4"
    assert [p.name for p in sorted(tmp_path.iterdir())] == [second.out, f"{first.out}.3"]


def taken_at_first(find):
    names, locks = [], []

    def found(config):
        names.append(find(config))
        if not locks:
            locks.append(FileLock(Path(names[0].out) / CLAIM_LOCK).acquire())
        return names[-1]

    return found


def killed_inside(folder, config):
    with contextlib.chdir(folder), claimed(config):
        signal.raise_signal(signal.SIGKILL)


def test_a_search_that_was_killed_before_it_began_its_study_begins_in_the_same_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = RunConfig(model="torchvision:resnet18")
    assert Started(tmp_path / "log", killed_inside, tmp_path, mine).wait() == -signal.SIGKILL
    (left,) = tmp_path.glob("resnet18-*")
    with claimed(mine) as again, claimed(mine) as beside:
        assert (again.out, beside.out) == (left.name, f"{left.name}.2")
        write_run(left, again)
    Path(f"{left.name}.2").mkdir()
    assert placed(mine).out == left.name, "its own study comes before what a kill left"
    assert [p.name for p in left.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("changed", "another"),
    [
        ({"data": "folder:other"}, True),
        ({"weights": "mine.pt"}, True),
        ({"seed": 1}, True),
        ({"trials": 99, "max_latency": "60%", "out": "elsewhere"}, False),
        ({"storage": "journal:log"}, False),
    ],
)
def test_in_one_storage_another_study_has_another_name(changed, another):
    """Else the second would take the first one's trials for its own."""
    space = SearchSpace({"a": ("keep", "ghost(ratio=2, kernel=3)")}, {})
    run = RunConfig(model="ghostsearch:digits_cnn", data="digits")
    assert (name_of(run, space) != name_of(run.but(**changed), space)) is another
    assert name_of(run, space) != name_of(run, SearchSpace({}, {}))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--storage", "postgresql://me:secret@db/x"], "--storage postgresql://me@db/x"),
        (["--storage=mysql://me:secret@db/x"], "--storage=mysql://me@db/x"),
        (["--storage=postgresql://db/x?user=me&password=secret"], "'--storage=postgresql://db/x?user=me'"),
        (["--storage", "sqlite:///my.db", "--model", "a:b@c"], "--storage sqlite:///my.db --model a:b@c"),
        (["--space", "my space.yaml", "--max-latency=60%"], "--space 'my space.yaml' --max-latency=60%"),
    ],
)
def test_the_command_is_kept_without_a_password_and_as_it_can_be_pasted(words, shown, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ghostsearch", "search", *words])
    assert environment()["command"] == f"ghostsearch search {shown}"

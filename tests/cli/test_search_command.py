"""The main job as a user runs it, small: search, resume, report, and what is refused."""

import contextlib
import json
import shutil
import threading
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.onnx_graph.file import open_onnx
from ghostsearch.report.live import served

TINY = [
    "--trials", "4", "--epochs", "0", "--final-epochs", "0", "--baseline-epochs", "2", "--time-limit", "0.05",
    "--final-time-limit", "0.1", "--cell-time-limit", "0.1", "--calibration-images", "64", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def command(tiny_space):
    """The arguments of the tiny study, but for its directory."""
    # Without the veto, which on a busy machine may leave nothing at a limit that a test asks for.
    return ["search", "--space", tiny_space, *TINY, "--no-veto"]


@pytest.fixture(scope="module")
def study(ghostsearch, command, tmp_path_factory):
    """A finished tiny study of the quick start's network."""
    out = tmp_path_factory.mktemp("search") / "run"
    done = ghostsearch(*command, "--out", out)
    assert done.code == 0, done.err
    return out, done


def test_the_study_directory_holds_what_is_promised(study):
    out, done = study
    for name in ("run.yaml", "study.db", "trials.csv", "trials.parquet", "front.csv", "report.html", "report.md"):
        assert (out / name).is_file(), name
        assert name in done.out or name in ("run.yaml", "trials.parquet")
    front = pd.read_csv(out / "front.csv")
    assert len(front) >= 1
    for digest in front["digest"]:
        assert (out / "models" / digest / "architecture.json").is_file()
        assert (out / "models" / digest / "weights.safetensors").is_file()
    trials = pd.read_parquet(out / "trials.parquet")
    assert trials["digest"].is_unique
    assert "baseline" in set(trials["digest"])


def test_the_report_holds_what_the_search_learned_of_the_device(study):
    from ghostsearch.study.directory import load_study

    out, _ = study
    view = load_study(out)
    assert {row["predictor"] for row in view.audit} <= {"latency table", "MACs alone"}
    sites = {s["path"] for s in view.anatomy["sites"]}
    assert sites <= {row["layer"] for row in view.layers}
    for row in view.layers:
        assert set(row["seconds"]) >= {r.digest for r in view.finalists if r.digest != "baseline"}
        for digest, seconds in row["seconds"].items():
            kept = next(r for r in view.records if r.digest == digest)
            if kept.groups == {} and kept.sites.get(row["layer"], "keep") == "keep":
                assert seconds == pytest.approx(row["baseline_s"], rel=1e-3)
    assert 'id="layer-plot"' in (out / "report.html").read_text()


def test_every_file_of_a_study_is_documented(study):
    out, _ = study
    page = (Path(__file__).parents[2] / "docs" / "file-formats.md").read_text()
    table = page.partition("## A study directory")[2].partition("###")[0]
    assert not {p.name for p in out.iterdir() if f"`{p.name}" not in table}


def test_raw_timings_lie_in_a_file_of_their_own(study):
    out, _ = study
    timings = json.loads((out / "timings.json").read_text())
    assert {len(by_device) for by_device in timings.values()} == {1}
    assert all(len(x["times_s"]) > 5 for by_device in timings.values() for x in by_device.values())
    kept = json.loads((out / "outcome.json").read_text())["finalists"]
    assert {r["digest"] for r in kept} == set(timings)
    assert all(len(x["times_s"]) <= 5 for r in kept for x in r["latencies"])


def test_a_study_without_its_models_says_so(refused, study, tmp_path):
    out, _ = study
    copy = tmp_path / "published"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("models", "weights"))
    refused("keeps no weights of", "choose", copy, "--max-drop", "100%")
    refused("makes the models again", "export", copy)


def test_solve_bounds_peak_memory_by_building_the_answers(ghostsearch, refused, study):
    out, _ = study
    found = ghostsearch("solve", out, "--max-macs", "80%", "--max-memory", "99%", "--json")
    assert found.code == 0, found.err
    whole = ghostsearch("solve", out, "--max-memory", "100%", "--count", "1", "--json").data[-1]["predicted"]
    for answer in found.data:
        figures = answer.get("measured") or answer["predicted"]
        assert figures.get("peak_memory_bytes", 0) <= 0.99 * whole["peak_memory_bytes"]
    refused("their minimum is peak memory", "solve", out, "--max-memory", "1kB")
    assert " ms" in refused("minimum of each alone is latency on", "solve", out, "--max-latency", "1us").err


def test_solve_offers_what_was_measured_before_what_is_predicted(ghostsearch, study):
    out, _ = study
    shown = ghostsearch("solve", out, "--max-macs", "99%")
    assert shown.code == 0, shown.err
    measured, _, predicted = shown.out.partition("predicted from the candidate table")
    outcome = json.loads((out / "outcome.json").read_text())
    whole = next(r["cost"]["macs"] for r in outcome["finalists"] if r["digest"] == "baseline")
    kept = [r["digest"] for r in outcome["finalists"] if r["cost"]["macs"] <= 0.99 * whole]
    assert kept
    assert all(digest in measured for digest in kept)
    assert "predicted loss" in predicted
    answers = ghostsearch("solve", out, "--out", out / "first.json", "--json").data
    kinds = ["measured" if "measured" in x else "predicted" for x in answers]
    assert kinds == sorted(kinds)
    assert json.loads((out / "first.json").read_text()) == answers[0]["architecture"]


def test_solve_shows_what_was_measured_where_the_table_has_no_answer(ghostsearch, study, monkeypatch):
    out, _ = study

    def nothing(*args, **options):
        raise GhostsearchError("no architecture of this space meets the limits")

    monkeypatch.setattr("ghostsearch.study.solve.solve_study", nothing)
    shown = ghostsearch("solve", out)
    assert shown.code == 0, shown.err
    assert "measured" in shown.out
    assert "no architecture of this space" in shown.err


def test_choose_takes_a_measured_model_and_writes_its_file(ghostsearch, refused, study):
    out, _ = study
    done = ghostsearch("choose", out, "--max-macs", "99%", "--max-drop", "100%", "--json")
    assert done.code == 0, done.err
    front = pd.read_csv(out / "front.csv").set_index("digest")
    assert done.data["digest"] in front.index
    assert done.data["figures"]["macs"] < done.data["baseline"]["macs"]
    assert done.data["file"].endswith(".onnx")
    assert Path(done.data["file"]).is_file()
    shown = ghostsearch("choose", out, "--max-drop", "100%", "--min-accuracy", "0%", "--no-export")
    assert "next: ghostsearch measure" in shown.out
    refused("the nearest is", "choose", out, "--max-latency", "1us")


def test_export_of_a_study_takes_its_chosen_model(ghostsearch, study, tmp_path):
    out, _ = study
    done = ghostsearch("export", out, "--out", tmp_path / "it.onnx", "--json")
    assert done.code == 0, done.err
    chosen = json.loads((out / "outcome.json").read_text())["chosen"]
    assert open_onnx(tmp_path / "it.onnx").module.notes["digest"] == chosen


def test_the_same_command_goes_on_and_repeats_nothing(ghostsearch, command, study):
    out, _ = study
    before = pd.read_parquet(out / "trials.parquet")
    done = ghostsearch(*command, "--out", out)
    assert done.code == 0, done.err
    after = pd.read_parquet(out / "trials.parquet")
    pd.testing.assert_frame_equal(before, after)


def test_run_yaml_is_enough_to_run_again(ghostsearch, study, tmp_path):
    out, _ = study
    config = yaml.safe_load((out / "run.yaml").read_text())
    config["out"] = str(tmp_path / "again")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    done = ghostsearch("search", "--config", tmp_path / "run.yaml", "--quiet")
    assert done.code == 0, done.err
    first, second = (pd.read_parquet(d / "trials.parquet") for d in (out, tmp_path / "again"))
    # The seeds are the same; what the sampler proposes behind them learns from latencies, which are measured anew.
    seeds = first["origin"].isin(["baseline", "uniform", "solver"])
    assert list(first["digest"][seeds]) == list(second["digest"][: seeds.sum()])
    assert len(first) == len(second)


def test_a_watched_search_serves_a_page_that_grows(ghostsearch, tmp_path, monkeypatch):
    seen, over = [], threading.Event()

    @contextlib.contextmanager
    def looked_at(folder):
        def look(url):
            while not over.wait(0.3):
                with contextlib.suppress(OSError):
                    seen.append(urllib.request.urlopen(url, timeout=60).read().decode())

        with served(folder) as url:
            reader = threading.Thread(target=look, args=[url])
            reader.start()
            yield url
            over.set()
            reader.join()

    monkeypatch.setattr("ghostsearch.cli.study.served", looked_at)
    cheap = ["--trials", "3", "--objectives", "score", "--objectives", "macs", "--sampler", "random"]
    cheap += ["--seeds", "uniform", "--calibration-images", "0", "--baseline-epochs", "0"]
    cheap += ["--time-limit", "0.02", "--final-time-limit", "0.1"]
    done = ghostsearch("search", *TINY, *cheap, "--out", tmp_path / "run", "--watch")
    assert done.code == 0, done.err
    assert "live report: http://127.0.0.1:" in done.err
    assert "after the first trial" in seen[0]
    pages = list(dict.fromkeys(seen))[1:]
    assert len(pages) >= 2, "one after each trial, but for those that were not looked at"
    rows = [page.count("<tr data-model") for page in pages]
    assert rows == sorted(rows)
    assert len(set(rows)) >= 2


def test_another_study_is_not_overwritten(refused, study):
    out, _ = study
    before = (out / "study.db").read_bytes()
    refused("another study", "search", *TINY, "--space", "ghost", "--out", out)
    assert (out / "study.db").read_bytes() == before


def test_report_is_written_again_from_what_is_on_disk(ghostsearch, study):
    out, _ = study
    (out / "report.html").unlink()
    done = ghostsearch("report", out)
    assert done.code == 0, done.err
    page = (out / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.split("<script")[0], "the page needs no network"


def test_what_adds_trials_to_a_study_names_the_directory_where_it_is(ghostsearch, study, tmp_path):
    out, _ = study
    shutil.copytree(out, tmp_path / "moved", ignore=shutil.ignore_patterns("models"))
    told = "next: ghostsearch search --config moved/run.yaml{} --trials N   adds trials"
    assert told.format(" --out moved") in ghostsearch("report", "moved", cwd=tmp_path).out
    file = tmp_path / "moved" / "run.yaml"
    file.write_text(file.read_text().replace(str(out), "moved"))
    assert told.format("") in ghostsearch("report", "moved", cwd=tmp_path).out


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ("nearest", ["--max-macs", "1%"]),
        ("max_latency", ["--max-latency", "fast"]),
        ("no folder", ["--data", "folder:/nonexistent/images"]),
        ("space", ["--space", "no-such-preset"]),
        ("write folder:search_spaces", ["--data", "search_spaces"]),
        ("no device is called 'cuda:0'", ["--device", "cuda:0", "--data", "folder:/nonexistent"]),
        ("no task 'segment'", ["--task", "segment", "--data", "folder:/nonexistent"]),
        ("--min-accuracy 97: accuracy is a share; write 97% or 0.97", ["--min-accuracy", "97"]),
        ("--max-drop 5: accuracy is a share; write 5%", ["--max-drop", "5"]),
        ("--trials: must be greater than or equal to 1, got 0", ["--trials", "0"]),
        ("sampler", ["--sampler", "oracle"]),
        ("--trained-on is for --weights", ["--trained-on", "same"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(refused, tmp_path, told, arguments):
    refused(told, "search", *TINY, *arguments, "--out", tmp_path / "run")
    assert not list(tmp_path.glob("run/*"))

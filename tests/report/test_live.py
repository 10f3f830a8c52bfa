"""The report of a running search over HTTP: its own files only, from this machine only, read only."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from http.client import HTTPConnection

import pytest

from ghostsearch.report.live import served
from ghostsearch.report.page import write_report

LINK = r'href"?[=:] ?"([\w./]+)"'


def fetch(url: str, **options) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as refused:
        return refused.code, ""


def test_the_report_and_nothing_else_until_the_block_ends(tmp_path):
    for name in ("report.html", "front.csv", "run.yaml", "study.db"):
        (tmp_path / name).write_text(name)
    (tmp_path / "models").mkdir()
    with served(tmp_path) as url:
        assert url.startswith("http://127.0.0.1:")
        assert fetch(url) == fetch(url + "report.html?again") == (200, "report.html")
        assert fetch(url + "front.csv") == (200, "front.csv")
        for name in ("run.yaml", "study.db", "models", "models/", "../secret", "%2e%2e/secret", ".", "trials.csv"):
            assert fetch(url + name)[0] == 404, name
        for method in ("POST", "PUT", "DELETE"):
            assert fetch(url, method=method, data=b"x")[0] == 501
        assert fetch(url, headers={"Host": "evil.example"})[0] == 403
        host, port = url.removeprefix("http://").rstrip("/").split(":")
    connection = HTTPConnection(host, int(port), timeout=60)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()


def test_a_live_page_links_to_nothing_that_is_not_served(view, tmp_path):
    kept = tmp_path / "models" / view.chosen
    kept.mkdir(parents=True)
    for file in (kept / "architecture.json", *(tmp_path / name for name in ("run.yaml", "study.db", "trials.csv"))):
        file.write_text("{}")
    live, whole = (re.findall(LINK, write_report(view, tmp_path, live=x).read_text()) for x in (True, False))
    assert {"trials.csv", "front.png"} <= set(live)
    with served(tmp_path) as url:
        assert [fetch(url + name)[0] for name in live] == [200] * len(live)
    assert {"run.yaml", f"models/{view.chosen}/architecture.json"} <= set(whole)


def test_before_the_first_trial_it_says_so(tmp_path):
    with served(tmp_path / "not yet there") as url:
        assert "after the first trial" in fetch(url)[1]

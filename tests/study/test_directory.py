"""Studies written by earlier versions are read."""

import shutil
from pathlib import Path

from ghostsearch.study.directory import load_study

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
    assert any(latency.ratio for r in view.finalists for latency in r.latencies)

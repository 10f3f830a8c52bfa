"""Where trials live: the file that a study's directory names."""

import pytest

from ghostsearch.study.store import DATABASE, open_storage


@pytest.mark.parametrize("name", ["plain", "a?b", "p%41", "100%", "a#b", "a@b:c", "with a space", "{x}", "ü", "it's"])
def test_the_database_is_in_its_directory_whatever_that_is_called(name, tmp_path, monkeypatch):
    for folder in (tmp_path / name, tmp_path / "below" / name):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "below")
    for folder in (tmp_path / name, (tmp_path / "below" / name).relative_to(tmp_path / "below")):
        storage = open_storage(None, folder)
        assert storage.backend.get_all_studies() == []
        with storage.exclusive():
            assert {p.name for p in folder.iterdir()} == {DATABASE, f".{DATABASE}.lock"}
    assert {p.name for p in tmp_path.iterdir()} == {name, "below"}

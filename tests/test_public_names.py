"""The public names are what they say, whatever was imported before."""

import subprocess
import sys

import pytest

import ghostsearch


@pytest.mark.parametrize("name", ghostsearch.__all__)
def test_every_public_name_is_callable(name):
    assert callable(getattr(ghostsearch, name))


def test_folders_do_not_hide_the_functions_of_their_name():
    code = (
        "import ghostsearch.surgery.sites, ghostsearch.study.config, ghostsearch; "
        "from ghostsearch import convert, search; print(callable(convert), callable(search))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True"

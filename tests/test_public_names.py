"""The public names are what they say, whatever was imported before."""

import pkgutil
from importlib import import_module

import pytest

import ghostsearch


@pytest.mark.parametrize("name", ghostsearch.__all__)
def test_every_public_name_is_callable(name):
    """Once every folder is imported too: none hides the function of its name."""
    for folder in pkgutil.iter_modules(ghostsearch.__path__, "ghostsearch."):
        if folder.ispkg:
            import_module(folder.name)
    assert callable(getattr(ghostsearch, name))

"""Reads the YAML files of users: presets and run.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from ghostsearch.errors import GhostsearchError, text_of
from ghostsearch.files import read_small

MAX_YAML_BYTES = 2**18
RUN = "run.yaml"
"""A study's options: the file by which a directory is known as a study's."""


def read_yaml(path: Path) -> object:
    """The plain data in a YAML file; tags that would make objects are refused.

    Raises GhostsearchError when the file is missing, larger than MAX_YAML_BYTES or not YAML.
    """
    try:
        return yaml.safe_load(read_small(path, MAX_YAML_BYTES))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise GhostsearchError(f"{path}: not valid YAML ({text_of(error)})") from None

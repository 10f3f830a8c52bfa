"""Reads the YAML files of users: presets and run.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from ghostsearch.errors import GhostsearchError, text_of

MAX_YAML_BYTES = 2**18


def read_yaml(path: Path) -> object:
    """The plain data in a YAML file; tags that would make objects are refused.

    Raises GhostsearchError when the file is missing, larger than MAX_YAML_BYTES or not YAML.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise GhostsearchError(f"{path}: larger than {MAX_YAML_BYTES} bytes, not a ghostsearch file")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GhostsearchError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise GhostsearchError(f"{path}: not valid YAML ({text_of(error)})") from None

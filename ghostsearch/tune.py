"""What a Ray Tuner of one's own takes from ghostsearch; `study.tune` says how. Raises GhostsearchError without Ray."""

from ghostsearch.errors import needing

with needing("ray[tune]", "ghostsearch.tune"):
    from ghostsearch.study.tune import param_space, searcher, trainable

__all__ = ["param_space", "searcher", "trainable"]

"""Architectures and search spaces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import Architecture, SearchSpace
from ghostsearch.space.choice_text import parse_choice

names = st.sampled_from(["conv1", "layer1.0.conv1", "layer1.0.conv2", "a.b"])
layer_texts = st.sampled_from(["keep", "ghost(ratio=2, kernel=3)", "ghost(ratio=4, kernel=3)", "lowrank(rank=0.5)"])
width_texts = st.sampled_from(["width(1)", "width(0.5)", "width(0.75)"])
architectures = st.builds(Architecture.of, st.dictionaries(names, layer_texts), st.dictionaries(names, width_texts))


@given(architectures)
def test_json_round_trip_keeps_equality_hash_and_digest(architecture):
    again = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert again.digest == architecture.digest


@given(architectures, architectures)
def test_digest_tells_architectures_apart(a, b):
    assert (a == b) == (a.digest == b.digest)


def test_what_stays_is_not_part_of_the_architecture():
    a = Architecture.of({"x": "keep", "y": "ghost(2, 3)"}, {"g": "width(1)"})
    assert a == Architecture.of({"y": "ghost(ratio=2, kernel=3)"})
    assert Architecture.of({"x": "keep"}).is_baseline
    assert Architecture().digest == "baseline"


def test_order_of_sites_does_not_matter():
    one, two = {"a": "ghost(2, 3)", "b": "ghost(4, 3)"}, {"b": "ghost(4, 3)", "a": "ghost(2, 3)"}
    assert Architecture.of(one).digest == Architecture.of(two).digest


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "not an architecture file"),
        ({"format": "other"}, "not an architecture file"),
        ({"format": "ghostsearch.architecture", "version": 99}, "version 99 is unknown here .* upgrade"),
        (
            {"format": "ghostsearch.architecture", "version": 1, "sites": ["x"]},
            "must map names to choice strings",
        ),
        (
            {"format": "ghostsearch.architecture", "version": 1, "sites": {"x": 3}},
            "must map names to choice strings",
        ),
        ({"format": "ghostsearch.architecture", "version": 1, "sites": {"x": "ghost(1)"}}, "ratio must be"),
        ({"format": "ghostsearch.architecture", "version": 1, "sites": {"x": "width(0.5)"}}, "for a group"),
    ],
)
def test_foreign_files_are_refused(data, told):
    with pytest.raises(GhostsearchError, match=told):
        Architecture.from_dict(data)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(GhostsearchError, match="cannot be read"):
        Architecture.read(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": "ghostsearch.arch')
    with pytest.raises(GhostsearchError, match="not valid JSON"):
        Architecture.read(broken)


def test_space_counts_and_checks():
    widths = ("width(1)", "width(0.5)", "width(0.25)")
    space = SearchSpace({"x": ("keep", "ghost(ratio=2, kernel=3)")}, {"g": widths})
    assert space.size == 2 * 3
    assert space.uniform("ghost(ratio=2, kernel=3)").sites == {"x": parse_choice("ghost(2, 3)")}
    assert space.architecture({"x": "keep"}, {"g": "width(0.5)"}).digest != "baseline"
    with pytest.raises(GhostsearchError, match="not in the search space"):
        space.architecture({"z": "keep"})
    with pytest.raises(GhostsearchError, match="not offered there; choose from keep"):
        space.architecture({"x": "ghost(ratio=4, kernel=3)"})


def test_space_digest_follows_content():
    base = SearchSpace({"x": ("keep", "ghost(ratio=2, kernel=3)")})
    assert base.digest == SearchSpace({"x": ("keep", "ghost(ratio=2, kernel=3)")}).digest
    assert base.digest != SearchSpace({"x": ("keep", "ghost(ratio=4, kernel=3)")}).digest


def test_a_narrowed_space_keeps_its_branches():
    space = SearchSpace(
        {"a": ("keep", "ghost(ratio=2, kernel=3)"), "b": ("keep", "drop"), "c": ("keep", "drop")},
        {"g": ("width(1)", "width(0.5)")}, 8, {"b": ("a", "g"), "c": ()},
    )  # fmt: skip
    left = space.narrowed({"a": space.sites["a"], "b": space.sites["b"]}, {})
    assert left.branches == {"b": ("a",)}
    assert space.narrowed({"a": space.sites["a"]}, space.groups).branches == {}
    made = space.architecture({"a": "ghost(ratio=2, kernel=3)", "b": "drop"}, {"g": "width(0.5)"})
    assert made == Architecture.of({"b": "drop"})

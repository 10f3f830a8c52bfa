"""Presets: YAML rules against a model's anatomy."""

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.space.architecture import Anatomy, Group, Site, Skipped
from ghostsearch.space.preset import load_preset, parse_preset, preset_directory


def conv(path, channels=64, kernel=(3, 3)):
    """A site of a k×k convolution on 8×8 maps."""
    taps, shape = kernel[0] * kernel[1], (channels, 8, 8)
    weights = channels * channels * taps
    kind = f"Conv2d {kernel[0]}x{kernel[1]}"
    return Site(
        path, kind, channels, channels, kernel, (1, 1), 1, shape, shape, macs=weights * 64, params=weights
    )  # fmt: skip


ANATOMY = Anatomy(
    sites=(conv("body.0"), conv("body.1", kernel=(1, 1)), conv("head.0")),
    skipped=(Skipped("stem", "first layer: it reads the image"),),
    groups=(Group("body.0", 64, ("body.0",)), Group("head.0", 64, ("head.0",), fixed="feeds the output")),
)


@pytest.mark.parametrize("path", sorted(preset_directory().glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_preset_loads_and_explains_itself(path):
    preset = load_preset(path)
    assert preset.description
    first = path.read_text().splitlines()
    assert first[0].startswith(f"# {path.stem}:")
    assert any("Use it" in line for line in first if line.startswith("#"))
    assert load_preset(path.stem) == preset == load_preset(f"search_spaces/{path.name}")


def test_the_presets_the_readme_names_are_shipped():
    assert {"ghost", "ghost_width", "quickstart", "paper_vgg"} <= {p.stem for p in preset_directory().glob("*.yaml")}


def test_the_first_matching_rule_wins():
    preset = parse_preset(
        {
            "sites": [
                {"match": "head.*", "choices": ["ghost(4, 3)"]},
                {"match": "*", "choices": ["ghost(2, 3)"]},
            ]
        },
        "test",
    )
    space = preset.resolve(ANATOMY)
    assert space.sites["head.0"] == ("keep", "ghost(ratio=4, kernel=3)")
    assert space.sites["body.0"] == ("keep", "ghost(ratio=2, kernel=3)")


def test_fixed_groups_and_excluded_sites_stay_out():
    rules = {
        "exclude": ["head.*"],
        "sites": [{"choices": ["ghost(2,3)"]}],
        "groups": [{"widths": ["width(0.5)"]}],
    }
    space = parse_preset(rules, "test").resolve(ANATOMY)
    assert list(space.groups) == ["body.0"]
    assert "head.0" not in space.sites


def test_only_choices_that_save_macs_are_offered():
    thin = Anatomy(sites=(conv("thin", channels=4, kernel=(1, 1)), conv("body.0")), skipped=())
    space = parse_preset({"sites": [{"choices": ["ghost(2, 5)", "ghost(2, 1)"]}]}, "test").resolve(thin)
    # ghost(2, 5) on 4 -> 4 channels: 2·4 + 2·25 = 58 weights against 4·4 = 16
    assert space.sites["thin"] == ("keep", "ghost(ratio=2, kernel=1)")


def test_of_widths_that_round_to_the_same_channels_the_first_is_offered():
    widths = [f"width({share})" for share in (1, 0.75, 0.5, 0.25)]
    thin, wide = Group("thin", 16, ("thin",)), Group("wide", 32, ("wide",))
    space = parse_preset({"width_multiple": 8, "groups": [{"widths": widths}]}, "test").resolve(
        Anatomy(sites=(), skipped=(), groups=(thin, wide))
    )
    # In multiples of 8: 16·0.75 = 12 rounds to 16, 16·0.25 = 4 to 8 as 16·0.5 does; 32 has 24, 16 and 8.
    assert space.groups == {"thin": ("width(1)", "width(0.5)"), "wide": tuple(widths)}
    assert {n: str(w) for n, w in space.uniform("width(0.25)").groups.items()} == {
        "thin": "width(0.5)", "wide": "width(0.25)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            {"sites": [{"match": "neck.*", "choices": ["keep", "ghost(2,3)"]}]},
            "glob 'neck.*' matches no site",
        ),
        ({"include": ["nothing*"], "sites": [{"choices": ["ghost(2,3)"]}]}, "matches no site"),
        (
            {"sites": [{"kind": "Conv2d 3×3", "choices": ["ghost(2,3)"]}]},
            "matches no kind of site; nearest: Conv2d 3x3",
        ),
        ({"groups": [{"match": "x*", "widths": ["width(0.5)"]}]}, "matches no group"),
        ({"sites": [{"choices": ["keep"]}]}, "no convolution of this model can be replaced"),
    ],
)
def test_rules_that_reach_nothing_are_refused(data, told):
    with pytest.raises(GhostsearchError, match=told):
        parse_preset(data, "test").resolve(ANATOMY)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sites: [{match: '*', choices: ['ghost(ratio=1)']}]", "ratio must be"),
        ("sites: [{match: '*', choices: []}]", "choices"),
        ("colour: red", "colour: is no known field, got 'red'"),
        ("width_multiple: 0", "width_multiple"),
        ("sites: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("- 1", "preset"),
    ],
)
def test_broken_files_are_one_line(tmp_path, text, told):
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    with pytest.raises(GhostsearchError, match=told) as caught:
        load_preset(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(GhostsearchError, match=r"presets: .*ghost"):
        load_preset("nope")

"""Search-space presets: YAML files of ordered rules, checked by pydantic and resolved against a model's anatomy."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from ghostsearch.errors import GhostsearchError, found_in, key_of
from ghostsearch.options import Frozen, in_words
from ghostsearch.space.architecture import Anatomy, Group, SearchSpace, Site, nearest_names
from ghostsearch.space.choice import GONE, KEEP, WIDTH_MULTIPLE, Drop, LayerChoice
from ghostsearch.space.choice_text import parse_layer_choice, parse_width
from ghostsearch.space.costs import choice_fits, kept_width
from ghostsearch.yaml_files import read_yaml


class SiteRule(Frozen):
    """Sites whose path matches `match` (a glob) and whose kind matches `kind` may become one of `choices`."""

    match: str = "*"
    kind: str = "*"
    choices: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]

    @field_validator("choices")
    @classmethod
    def _canonical(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(["keep", *(str(parse_layer_choice(t)) for t in texts)]))


class GroupRule(Frozen):
    """Groups whose name matches `match` may take one of `widths`."""

    match: str = "*"
    widths: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]

    @field_validator("widths")
    @classmethod
    def _canonical(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(["width(1)", *(str(parse_width(t)) for t in texts)]))


class Preset(Frozen):
    """A search space as a file: rules in order, the first match wins; what no rule matches stays as it is."""

    description: str = ""
    include_first: bool = False
    """Whether convolutions that read the image itself are sites (the paper's VGG-16 ghosts them)."""
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    width_multiple: Annotated[int, Field(ge=1, le=1024)] = WIDTH_MULTIPLE
    sites: tuple[SiteRule, ...] = ()
    groups: tuple[GroupRule, ...] = ()

    def resolve(self, anatomy: Anatomy) -> SearchSpace:
        """The space this preset opens on a model.

        Only choices that lower the site's MACs are offered (`Site` formulas, paper section 3.2), and of widths that
        round to the same number of channels the first.
        Raises GhostsearchError when a glob matches nothing or no site and no group is left.
        """
        paths = [s.path for s in anatomy.sites]
        names = [g.name for g in anatomy.groups]
        for glob in (*self.include, *self.exclude, *(r.match for r in self.sites)):
            _check_glob(glob, [*paths, *(s.path for s in anatomy.skipped)], "site")
        for kind in [r.kind for r in self.sites if anatomy.sites]:
            _check_glob(kind, sorted({s.kind for s in anatomy.sites}), "kind of site")
        if anatomy.groups:
            for rule in self.groups:
                _check_glob(rule.match, names, "group")
        sites, ends = {}, {b.end for b in anatomy.branches}
        for site in anatomy.sites:
            if not _wanted(site.path, self.include, self.exclude):
                continue
            options = next(
                (r.choices for r in self.sites if fnmatchcase(site.path, r.match) and fnmatchcase(site.kind, r.kind)),
                (),
            )
            paying = tuple(t for t in options if _offered(parse_layer_choice(t), site, ends))
            if len(paying) > 1:
                sites[site.path] = paying
        groups = {}
        for group in anatomy.groups:
            widths = next((r.widths for r in self.groups if fnmatchcase(group.name, r.match)), ())
            widths = _different(widths, group, self.width_multiple)
            if len(widths) > 1 and not group.fixed and _wanted(group.name, self.include, self.exclude):
                groups[group.name] = widths
        if not sites and not groups:
            raise GhostsearchError(
                "no convolution of this model can be replaced by these choices, which must lower its MACs; "
                "'ghostsearch inspect MODEL' shows what each offers"
            )
        return SearchSpace(sites, groups, self.width_multiple, _inside(anatomy, sites, groups))


def _offered(choice: LayerChoice, site: Site, ends: set[str]) -> bool:
    """Whether a site offers a choice: what lowers its MACs, or takes a residual branch away that ends there."""
    if isinstance(choice, Drop):
        return site.path in ends
    return choice == KEEP or choice_fits(site, choice)


def _inside(
    anatomy: Anatomy, sites: Mapping[str, Sequence[str]], groups: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Per site that may take its branch away, the other sites and groups of the space that lie inside its branch."""
    found = {}
    for branch in anatomy.branches:
        if set(GONE).intersection(sites.get(branch.end, ())):
            held = [g.name for g in anatomy.groups if g.name in groups and set(g.members) <= set(branch.inside)]
            found[branch.end] = (*(path for path in branch.inside if path in sites), *held)
    return found


def _different(widths: Sequence[str], group: Group, multiple: int) -> tuple[str, ...]:
    """The widths that keep different numbers of a group's channels, the first of each."""
    kept: dict[int, str] = {}
    for text in widths:
        kept.setdefault(kept_width(group.channels, parse_width(text).share, multiple, group.divisions), text)
    return tuple(kept.values())


def _wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    return any(fnmatchcase(name, g) for g in include) and not any(fnmatchcase(name, g) for g in exclude)


def _check_glob(glob: str, names: Sequence[str], what: str) -> None:
    if glob != "*" and not any(fnmatchcase(n, glob) for n in names):
        raise GhostsearchError(f"glob {glob!r} matches no {what}; nearest: {nearest_names(glob, names)}")


QUICK_START = "ghostsearch:digits_cnn"
"""The network that is searched where none is named."""
SPACE_HELP = (
    "Search space: a YAML file or a preset: families, int8, ghost_width, ghost, fine, paper_vgg, quickstart. "
    "Default: families; quickstart for the quick start's network."
)


def default_space(model: str) -> str:
    """The preset for a model where none is named: all kinds of choices; a small one for the quick start."""
    return "quickstart" if model == QUICK_START else "families"


def preset_directory() -> Path:
    """Where the shipped presets are: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def load_preset(name: str | Path) -> Preset:
    """A preset from a YAML file, or by the bare name of a shipped one (`ghost`, `ghost_width`, …).

    Raises GhostsearchError when the file is missing, is not YAML or breaks a rule, naming the field.
    """
    path = Path(name)
    shipped = preset_directory() / (path.name if path.suffix else f"{path.name}.yaml")
    if not path.is_file() and path.parent.name in ("", "search_spaces") and shipped.is_file():
        path = shipped
    if not path.is_file():
        known = sorted(p.stem for p in preset_directory().glob("*.yaml"))
        raise GhostsearchError(
            f"search space {str(name)!r} is neither a file nor a preset; presets: {', '.join(known)}"
        )
    return parse_preset(read_yaml(path), str(path))


def parse_preset(data: object, source: str) -> Preset:
    """A preset from plain data; raises GhostsearchError naming the field that breaks a rule."""
    try:
        with found_in(source):
            return Preset.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where, said = key_of(first["loc"]) or "the file", in_words(first["msg"])
        raise GhostsearchError(f"{source}: {where}: {said}, got {reprlib.repr(first['input'])[:80]}") from None

"""The architectures every study starts from: the plain model, the uniform ghosts and the uniform widths."""

from __future__ import annotations

from ghostsearch.space import Architecture, SearchSpace


def uniform_seeds(space: SearchSpace) -> list[tuple[Architecture, str]]:
    """The plain model, then each choice everywhere it is offered, then the widths, then each width with each choice.

    Uniform points are what a user would try by hand, and what any search must beat.
    """
    choices = list(dict.fromkeys(t for options in space.sites.values() for t in options[1:]))
    widths = list(dict.fromkeys(t for options in space.groups.values() for t in options[1:]))
    seeds = [(Architecture(), "plain")]
    seeds += [(space.uniform(text), "uniform") for text in (*choices, *widths)]
    for width in widths:
        for choice in choices[:1]:
            both = Architecture(space.uniform(choice).sites, space.uniform(width).groups)
            seeds.append((both, "uniform"))
    return list({a.digest: (a, origin) for a, origin in reversed(seeds)}.values())[::-1]

from benchmarks.fronts import Point, between, front

MODELS = [Point(0.5, 70.0, "a"), Point(0.8, 80.0, "b"), Point(0.9, 75.0, "worse"), Point(1.0, 90.0, "baseline")]


def test_what_a_cheaper_model_beats_is_on_no_front():
    assert [p.name for p in front(MODELS)] == ["a", "b", "baseline"]


def test_between_neighbours_lies_a_straight_line():
    found = between(MODELS, 0.9)
    assert found.accuracy == 85
    assert str(found) == "b (0.800) and baseline (1.000)"


def test_at_a_model_and_beyond_the_last_it_is_that_model():
    assert between(MODELS, 0.8).models == (MODELS[1],)
    assert between(MODELS, 1.2).models == (MODELS[3],)


def test_nothing_is_so_cheap():
    assert between(MODELS, 0.4) is None

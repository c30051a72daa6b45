"""slimcnn.budget: the best choice of all where all can be tried, and never above the budget."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimcnn import budget
from slimcnn.budget import Option, choose

whole_options = st.lists(
    st.builds(Option, st.integers(0, 30), st.integers(-20, 20)), min_size=1, max_size=5
)
small_problems = st.dictionaries(st.sampled_from("abcde"), whole_options, max_size=4)
sevenths = st.integers(0, 10**6).map(lambda count: count / 7)
real_options = st.lists(st.builds(Option, sevenths, st.floats(-10, 10)), min_size=1, max_size=6)


def cost(options, chosen):
    return math.fsum(options[name][index].cost for name, index in chosen.items())


def damage(options, chosen):
    return math.fsum(options[name][index].damage for name, index in chosen.items())


def every_choice(options):
    for indices in itertools.product(*(range(len(found)) for found in options.values())):
        yield dict(zip(options, indices, strict=True))


def least(options):
    return math.fsum(min(option.cost for option in found) for found in options.values())


@settings(max_examples=200, deadline=None)
@given(small_problems, st.integers(0, 100))
def test_whole_numbers_are_solved_exactly_and_the_cheapest_of_equals_is_taken(options, above):
    allowed = least(options) + above
    chosen = choose(options, allowed)
    fitting = [c for c in every_choice(options) if cost(options, c) <= allowed]
    best = min((damage(options, c), cost(options, c)) for c in fitting)
    assert (damage(options, chosen), cost(options, chosen)) == best
    assert list(chosen) == list(options)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), real_options, min_size=1), st.floats(0, 1.2))
def test_real_numbers_keep_the_budget_and_lose_no_more_than_rounding(options, share):
    most = math.fsum(max(option.cost for option in found) for found in options.values())
    allowed = least(options) + share * (most - least(options))
    chosen = choose(options, allowed)
    assert cost(options, chosen) <= allowed
    unused = len(options) * (allowed - least(options)) / budget.BUCKETS + 1e-9 * allowed
    for rival in every_choice(options):
        if cost(options, rival) <= allowed - unused:
            assert damage(options, chosen) <= damage(options, rival) + 1e-9
    for name, index in chosen.items():  # and no single exchange would fit and do good
        for option in options[name]:
            if option.damage < options[name][index].damage:
                other = [options[n][i].cost for n, i in chosen.items() if n != name]
                assert math.fsum([*other, option.cost]) > allowed * (1 - 1e-12)


def test_many_names_whose_costs_are_far_larger_than_the_buckets():
    """A curve with ever smaller gains: the best choice is known from the exchange of steps."""
    options = {
        f"{layer}": [
            Option(10_000_019 * step, (20 - step) ** 2 * (layer + 1)) for step in range(21)
        ]
        for layer in range(12)
    }
    for steps in (0, 1, 50, 133, 240):
        allowed = 10_000_019 * steps
        chosen = choose(options, allowed)
        gains = sorted(
            ((2 * (20 - s) - 1) * (layer + 1) for layer in range(12) for s in range(20)),
            reverse=True,
        )
        whole = damage(options, dict.fromkeys(options, 0))
        assert cost(options, chosen) <= allowed
        assert damage(options, chosen) == whole - sum(gains[:steps])


def test_what_rounding_left_is_spent():
    """Each of three costs a little more than a third of the steps: rounded up, they do not fit."""
    third = 1 / 3 - 1e-9
    options = {name: [Option(0.0, 1.0), Option(third, 0.0)] for name in "abc"}
    assert math.ceil(third * budget.BUCKETS) * 3 > budget.BUCKETS
    assert choose(options, 1.0) == {"a": 1, "b": 1, "c": 1}
    options["c"][1] = Option(third, 0.5)
    options["d"] = [Option(0.0, 1.0), Option(third, 0.6)]
    assert choose(options, 1.0) == {"a": 1, "b": 1, "c": 1, "d": 0}  # the larger gain


def test_equals_the_cheapest_then_the_first():
    assert choose({"a": [Option(5, 1), Option(3, 1), Option(3, 1), Option(9, 2)]}, 100) == {"a": 1}
    assert choose({"a": [Option(2, 0), Option(2, -1), Option(0, 3)]}, 2) == {"a": 1}
    two = [Option(0, 1), Option(4, 0)]
    assert choose({"a": two, "b": [Option(0, 1), Option(3, 0)]}, 4) == {"a": 0, "b": 1}


def test_nothing_to_decide():
    assert choose({}, 0) == {}
    assert choose({}, 5.5) == {}
    assert choose({"a": [Option(7, 3)]}, 7) == {"a": 0}
    assert choose({"a": [Option(0.1, 0), Option(0.2, -9)], "b": [Option(0.2, 0)]}, 0.1 + 0.2) == {
        "a": 0,
        "b": 0,
    }
    assert choose({"a": [Option(0, 1), Option(1e300, 0)]}, 1.0) == {"a": 0}
    assert choose({"a": [Option(0, 1), Option(1e300, 0)]}, math.inf) == {"a": 1}


@pytest.mark.parametrize(
    ("options", "allowed", "message"),
    [
        ({"a": []}, 5, "'a' has no option"),
        ({"a": [Option(-1, 0)]}, 5, "'a' has an option of cost -1 and damage 0"),
        ({"a": [Option(1, math.nan)]}, 5, "'a' has an option of cost 1 and damage nan"),
        ({"a": [Option(math.nan, 0)]}, 5, "cost nan and damage 0"),
        ({"a": [Option(1, 0)], "b": [Option(1, -math.inf)]}, 5, "'b' .* damage -inf"),
        ({"a": [Option(math.inf, 0)]}, 5, "cost inf"),
        ({"a": [Option(3, 0), Option(2, 9)], "b": [Option(4, 0)]}, 5, "budget is 5; .* cost 6"),
        ({"a": [Option(3, 0)]}, math.nan, "budget is nan; .* cost 3"),
        ({}, -1, "budget is -1; .* cost 0"),
    ],
)
def test_what_cannot_be_solved_is_refused(options, allowed, message):
    with pytest.raises(ValueError, match=message):
        choose(options, allowed)

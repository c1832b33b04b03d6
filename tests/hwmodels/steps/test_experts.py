"""Experts that a batch reaches: the formula against all choices, and against tokens that choose by themselves."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.steps.experts import chances, distinct_experts, grouped, load_expert_shares
from nmsim.errors import SpecError


def enumerated(experts: int, active: int, tokens: int) -> float:
    """Mean number of experts that are chosen, over all ways in which the tokens may choose."""
    choices = list(itertools.combinations(range(experts), active))
    reached = [len(set().union(*picks)) for picks in itertools.product(choices, repeat=tokens)]
    return sum(reached) / len(reached)


@pytest.mark.parametrize(
    ("experts", "active", "tokens"),
    [(1, 1, 3), (2, 1, 4), (4, 1, 3), (4, 2, 3), (5, 3, 2), (6, 2, 2), (4, 4, 2), (3, 2, 4)],
)
def test_the_formula_is_the_mean_over_all_choices(experts, active, tokens):
    expected = enumerated(experts, active, tokens)
    assert distinct_experts(experts, active, tokens=tokens) == pytest.approx(expected, rel=1e-12)


def test_measured_loads_against_tokens_that_choose_by_them():
    """Each token picks two different experts of six, unequally; the chance of each expert is known exactly."""
    pairs = list(itertools.combinations(range(6), 2))
    weights = np.array([3.0 if 0 in pair else 1.0 for pair in pairs])
    weights /= weights.sum()
    loads = [
        sum(weight for pair, weight in zip(pairs, weights, strict=True) if one in pair) for one in range(6)
    ]
    rng = np.random.default_rng(3)
    drawn = rng.choice(len(pairs), size=(20000, 5), p=weights)
    table = np.array(pairs)[drawn].reshape(20000, -1)
    seen = np.mean([len(set(row)) for row in table.tolist()])
    assert distinct_experts(6, 2, tokens=5, shares=loads) == pytest.approx(seen, abs=0.03)


sizes = st.integers(1, 300).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts)))


@given(sizes, st.integers(1, 100_000))
def test_laws_of_distinct_experts(size, tokens):
    experts, active = size
    found = distinct_experts(experts, active, tokens=tokens)
    assert active <= found <= min(experts, tokens * active)
    assert found <= distinct_experts(experts, active, tokens=tokens + 1)
    assert found <= distinct_experts(experts, min(active + 1, experts), tokens=tokens)
    assert distinct_experts(experts, active, tokens=1) == active
    even = distinct_experts(experts, active, tokens=tokens, shares=[7.0] * experts)
    assert even == pytest.approx(found, rel=1e-9)


@given(sizes, st.integers(1, 5000), st.integers(0, 2**32))
def test_unequal_loads_reach_no_more_experts(size, tokens, seed):
    experts, active = size
    loads = np.random.default_rng(seed).uniform(0.5, 1.0, experts)
    if active * loads.max() / loads.sum() > 1:
        return
    found = distinct_experts(experts, active, tokens=tokens, shares=loads.tolist())
    assert active <= found <= distinct_experts(experts, active, tokens=tokens) * (1 + 1e-9)


@given(sizes, st.integers(1, 100_000))
def test_whole_tokens_keep_all_picks(size, tokens):
    experts, active = size
    found = grouped(experts, active, tokens=tokens)
    assert math.fsum(weight for _, weight in found.parts) == pytest.approx(1.0)
    assert found.products * found.tokens == pytest.approx(tokens * active, rel=1e-8)
    assert all(count >= 1 and 0 <= weight <= 1 for count, weight in found.parts)
    numbers = [count for count, _ in found.parts]
    assert numbers[-1] - numbers[0] == len(numbers) - 1


def test_one_expert_is_a_dense_layer():
    assert grouped(1, 1, tokens=37) == grouped(0, 0, tokens=37)


def test_loads_from_files(tmp_path):
    csv, plain = tmp_path / "loads.csv", tmp_path / "loads.json"
    csv.write_text("expert,load\n2,0.25\n0,0.5\n1,0.25\n")
    plain.write_text(json.dumps([2, 1, 1]))
    assert (
        chances(load_expert_shares(csv), 3, 1)
        == chances(load_expert_shares(plain), 3, 1)
        == [0.5, 0.25, 0.25]
    )


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "", "expert,load"),
        ("a.csv", "expert,share\n0,1\n", "expert,load"),
        ("a.csv", "expert,load\n0,1\n2,1\n", "no load of expert 1"),
        ("a.csv", "expert,load\n0,1\n0,1\n", "line 3"),
        ("a.csv", "expert,load\n0,one\n", "line 2"),
        ("a.csv", "expert,load\n0,1,2\n", "line 2"),
        ("a.csv", "expert,load\n-1,1\n", "line 2"),
        ("a.json", "{}", "JSON list"),
        ("a.json", '["x"]', "JSON list"),
        ("a.json", "[1e400]", "JSON list"),
        ("a.json", "[", "JSON"),
        ("no.csv", None, "cannot be read"),
    ],
)
def test_bad_files_of_loads_are_refused(tmp_path, name, text, problem):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=problem):
        load_expert_shares(tmp_path / name)


@pytest.mark.parametrize(
    ("shares", "problem"),
    [
        ([1.0] * 3, "3 of them"),
        ([0.0] * 4, "all are 0"),
        ([1.0, -1.0, 1.0, 1.0], "expert 1"),
        ([1.0, math.nan, 1.0, 1.0], "expert 1"),
        ([1.0, "x", 1.0, 1.0], "expert 1"),
        ([10.0, 1.0, 1.0, 1.0], "expert 0 takes 0.7692"),
    ],
)
def test_impossible_loads_are_refused(shares, problem):
    with pytest.raises(SpecError, match=problem):
        distinct_experts(4, 2, tokens=3, shares=shares)


@pytest.mark.parametrize("numbers", [(0, 0, 1), (4, 5, 1), (4, 2, 0), (4.0, 2, 1), (4, True, 1)])
def test_impossible_numbers_are_refused(numbers):
    experts, active, tokens = numbers
    with pytest.raises(SpecError, match="expected"):
        distinct_experts(experts, active, tokens=tokens)

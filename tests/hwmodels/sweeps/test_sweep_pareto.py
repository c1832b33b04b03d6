"""Pareto fronts against their definition, pair by pair."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwmodels
from nmsim.errors import RowError

TABLE = pd.DataFrame({"a": [1], "text": ["x"]})
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, np.inf, -np.inf, np.nan, 1e300, -1e308, 1e308])


def by_definition(costs):
    """Rows without a NaN that no other one beats."""
    marks = []
    for row in costs:
        rivals = costs[~np.isnan(costs).any(axis=1)]
        beaten = ((rivals <= row).all(axis=1) & (rivals < row).any(axis=1)).any()
        marks.append(not np.isnan(row).any() and not beaten)
    return marks


@given(st.integers(1, 5).flatmap(lambda d: st.lists(st.tuples(*[NUMBERS] * d), min_size=1, max_size=40)))
def test_a_front_is_what_its_definition_says(rows):
    costs = np.array(rows, float)
    names = [f"c{place}" for place in range(costs.shape[1])]
    table = pd.DataFrame(costs, columns=names)
    assert hwmodels.pareto_front(table, minimise=names).tolist() == by_definition(costs)
    upside_down = hwmodels.pareto_front(-table, maximise=names)
    assert upside_down.tolist() == by_definition(costs)


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("values", [2, 10, 10**6])
def test_fronts_of_many_rows_are_those_of_the_definition(columns, values):
    costs = np.random.default_rng(columns).integers(0, values, (1500, columns)).astype(float)
    table = pd.DataFrame(costs, columns=list("abcd")[:columns])
    assert hwmodels.pareto_front(table, minimise=list(table)).tolist() == by_definition(costs)


def test_least_and_most_together():
    table = pd.DataFrame({"time_s": [1, 2, 3, 1], "quality": [5.0, 9.0, 9.0, 4.0]}, index=[9, 9, 2, 1])
    assert hwmodels.pareto_front(table, minimise=["time_s"], maximise=["quality"]).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_works_do_not_compete():
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.random((300, 3)), columns=list("abc"))
    table["layer"] = pd.Categorical(generator.choice(["q", "k"], 300), ["q", "k", "unused"])
    table["tokens"] = generator.choice([1, 16], 300)
    found = hwmodels.pareto_front(table, minimise=list("abc"), within=["layer", "tokens"])
    for _, part in table.groupby(["layer", "tokens"], observed=True):
        assert found[part.index].tolist() == by_definition(part[list("abc")].to_numpy())


def test_nothing_has_no_front():
    table = pd.DataFrame({"a": [], "b": [], "c": []}, dtype=float)
    assert hwmodels.pareto_front(table, minimise=["a", "b", "c"]).tolist() == []
    assert hwmodels.pareto_front(table + np.nan, minimise=["a", "b"], within=["c"]).tolist() == []
    assert hwmodels.pareto_front(pd.DataFrame({"a": [np.nan]}), minimise=["a"]).tolist() == [False]


def test_a_million_rows_take_a_moment():
    table = pd.DataFrame(np.random.default_rng(0).random((10**6, 4)), columns=list("abcd"))
    hwmodels.pareto_front(table[:10], minimise=list("abcd"))
    start = time.process_time()
    front = hwmodels.pareto_front(table, minimise=list("abcd"))
    assert time.process_time() - start < 10
    assert 100 < front.sum() < 2000


@pytest.mark.parametrize(
    ("minimise", "maximise", "within", "text"),
    [
        ([], [], [], "columns []: expected at least one"),
        (["a"], ["a"], [], "each once"),
        (["z"], [], [], "'z': no such column. There are a, text"),
        (["a"], [], ["z"], "'z': no such column"),
        (["text"], [], [], "'text': expected a column of numbers"),
    ],
)
def test_bad_columns_are_named(minimise, maximise, within, text):
    with pytest.raises(RowError) as caught:
        hwmodels.pareto_front(
            pd.DataFrame({"a": [1], "text": ["x"]}), minimise=minimise, maximise=maximise, within=within
        )
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("table", "columns", "text"),
    [
        ([1, 2], {"minimise": ["a"]}, "table of type list: expected a pandas DataFrame"),
        (TABLE, {"minimise": "a"}, "minimise='a': expected a list of columns, such as ['a']"),
        (TABLE, {"minimise": ["a"], "within": "text"}, "within='text': expected a list of columns"),
        (TABLE, {"minimise": ["a"], "maximise": 3}, "maximise=3: expected a list of columns"),
        (TABLE, {"minimise": [["a"]]}, "minimise=[['a']]: expected a list of columns"),
    ],
)  # fmt: skip
def test_what_is_no_table_or_no_list_is_named(table, columns, text):
    with pytest.raises(RowError) as caught:
        hwmodels.pareto_front(table, **columns)
    assert text in str(caught.value)

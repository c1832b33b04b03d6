"""The generated pages on validation: their numbers are those of the verdict, and what is not there yet is said."""

import re
import sys
from pathlib import Path

import pytest

from validate.judge import break_even

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def docs():
    """The modules of the docs, imported as `docs/tools/generate.py` does."""
    sys.path.insert(0, str(DOCS / "tools"))
    try:
        import judged
        import sparsity_loses
        import validation

        yield judged, validation, sparsity_loses
    finally:
        sys.path.remove(str(DOCS / "tools"))


def test_the_tables_are_those_of_the_verdict(docs):
    judged, validation, _ = docs
    page, verdict = validation.page(), judged.published().verdict()
    overall = verdict["overall"]
    assert f"| all | {overall['n_rows']} | {100 * overall['speedup_mdape']:.1f} % |" in page
    for part in ("machines", "kernel_families", "regimes", "dtype_classes"):
        for group in verdict[part]:
            name = next(iter(group.values()))
            assert f"| {name} | {group['n_rows']} | {100 * group['speedup_mdape']:.1f} % |" in page
    assert f"{len(verdict['bound_violations'])} published times are below the bound" in page
    alone = {
        group["product"]: f"{100 * group['bandwidth_mdape']:.1f} %"
        for group in verdict["bandwidth_dtype_classes"]
        if (group["dtype_class"], group["limit"]) == ("16-bit", "memory")
    }
    assert (
        f"calls alone it is {alone['dense']} of the dense ones and {alone['sparse']} of the sparse ones."
        in page
    )
    table = judged.published().table
    assert page.count("|\n") > table.groupby(["machine", "dtype", "regime"]).ngroups


def test_a_goal_that_is_missed_says_so(docs):
    _, validation, _ = docs
    group = {"dtype_class": "16-bit", "n_rows": 9, "speedup_mdape": 0.05, "dense_time_mdape": 0.12, "sparse_time_mdape": 0.1,
             "side_share": 0.91, "interval_coverage": 0.85}  # fmt: skip
    text = validation._goals(
        {"dtype_classes": [group, group | {"dtype_class": "8-bit", "interval_coverage": None}]}
    )
    assert "| 16-bit types, speedup | at most 5 % | 5.0 % | 9 | met |" in text
    assert "| 16-bit types, dense time | at most 10 % | 12.0 % | 9 | **missed** |" in text
    assert "| 16-bit types, right side of 1.0, or about 1 | at least 92 % | 91.0 % | 9 | **missed** |" in text
    assert "| 16-bit types, in interval | 76 to 84 % | 85.0 % | 9 | **missed** |" in text
    assert "| 8-bit types, right side of 1.0, or about 1 | at least 88 % | 91.0 % | 9 | met |" in text
    assert text.count("**missed**") == 4
    assert "B200" not in text


def test_own_rows_are_shown_when_there_are_some(docs):
    judged, validation, _ = docs
    assert "None has been committed yet" in validation._own(None)
    text = validation._own(judged.published())
    assert "published.csv" in text
    assert "| a100-pcie | bf16 | decode |" in text
    assert str(DOCS.parent) not in text


def test_the_sentences_are_counted_from_the_tables(docs):
    judged, _, sparsity_loses = docs
    points, mapped = judged.points(), judged.mapped()
    first, second, third = sparsity_loses.sentences(points, mapped)
    lost = points["measured_speedup_vs_dense"] < 1
    assert (
        f"Of {len(points)} published 2:4 timings of 16-bit types on {points['machine'].nunique()} GPUs {lost.sum()} lose"
        in first
    )
    side, machine = re.search(r"from a side of (\d+) elements on the (\S+) to", second).groups()
    assert break_even.break_even_side(mapped, machine, 1) == int(side)
    assert third.endswith(".")
    machines = re.search(r"Published rows lose on: (.*?) \(", third)[1].replace(" and ", ", ").split(", ")
    losing = points[lost & points["machine"].isin(machines) & (points["regime"] == "prefill")]
    assert f"({len(losing)} of " in third
    if doubted := (losing["mark"] == "anomalous").sum():
        assert f"of which their source calls {doubted} anomalous)" in third
    winning = sparsity_loses.sentences(points, mapped.assign(predicted_speedup_vs_dense=2.0))[2]
    assert winning == "At 4096 tokens no GPU is predicted to lose on the largest weights."

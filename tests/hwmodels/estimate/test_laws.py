"""What must hold for every case on every machine."""

import dataclasses

import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import hwmodels
from nmsim import encodings
from nmsim.case import Case, GemmShape
from nmsim.format import SparseFormat
from nmsim.packing import parse as packing_policy
from nmsim.pattern import Pattern

DIMENSIONS = st.one_of(st.integers(1, 300), st.integers(1, 20_000))
SHAPES = st.builds(GemmShape, DIMENSIONS, DIMENSIONS, DIMENSIONS)
COMMON = ("2:4", "4:8", "8:16", "16:32", "6:8", "1:16", "4:4")
PATTERNS = st.one_of(
    st.sampled_from(COMMON).map(Pattern.parse),
    st.integers(1, 40).flatmap(lambda m: st.builds(Pattern, st.integers(1, m), st.just(m))),
)
MACHINES = st.sampled_from(
    [name for name in hwmodels.machine_names() if "bf16" in hwmodels.load_machine(name).dense_peak_flop_per_s]
)
ENCODINGS = st.sampled_from(["bitmask", "index", "gap", "combinatorial", "joint:4"]).map(encodings.get)
PACKINGS = st.sampled_from(["bitstream", "no_straddle", "power_of_two", "byte"]).map(packing_policy)
FORMATS = st.builds(SparseFormat, PATTERNS, ENCODINGS, PACKINGS)
DTYPES = st.sampled_from(["fp32", "fp16", "bf16"])
OPERANDS = st.sampled_from(["weights", "activations"])
CASES = st.builds(Case, SHAPES, FORMATS, dtype=DTYPES, sparse_operand=OPERANDS)
ANY_CASES = st.builds(Case, SHAPES, st.none() | FORMATS, dtype=DTYPES, sparse_operand=OPERANDS)


def faster(spec, name, factor):
    quantity = getattr(spec, name)
    return dataclasses.replace(spec, **{name: dataclasses.replace(quantity, value=quantity.value * factor)})


def as_row(case):
    shape = case.shape
    return {
        "M": shape.M,
        "N": shape.N,
        "K": shape.K,
        "dtype": case.dtype,
        "pattern": str(case.pattern) if case.pattern else None,
        "sparse_operand": case.sparse_operand,
        "encoding": case.format.encoding.name if case.format else "bitmask",
        "packing": str(case.format.packing) if case.format else "bitstream",
    }


@given(st.lists(ANY_CASES, min_size=1, max_size=8), MACHINES)
def test_table_and_single_case_agree(cases, machine):
    """To the last digit but one: powers of single numbers and of arrays are rounded apart."""
    table = hwmodels.predict(pd.DataFrame([as_row(case) for case in cases]), machine)
    for position, case in enumerate(cases):
        answer = hwmodels.predict(case, machine)
        for name in hwmodels.PREDICTED_COLUMNS:
            one, other = table.iloc[position][name], getattr(answer, name)
            if isinstance(one, float) and one != other:
                assert other == pytest.approx(one, rel=1e-14, abs=0, nan_ok=True), name
            else:
                assert one == other, name


@given(CASES, MACHINES)
def test_time_is_the_longest_stage_and_the_bound_names_it(case, machine):
    answer = hwmodels.predict(case, machine)
    stages = {name: getattr(answer, f"bound_{name}_s") for name in ("memory", "decode", "select", "matrix")}
    assert answer.bound_time_s == max(stages.values()) == stages[answer.limit]
    assert answer.explanation.startswith(f"{answer.limit}: ")
    assert answer.bound_speedup_vs_dense == answer.bound_dense_time_s / answer.bound_time_s


@given(CASES, MACHINES)
@example(Case(GemmShape(1, 4096, 3), "16:32"), "epyc-2core")
@example(Case(GemmShape(8, 14336, 4096), "8:16/joint"), "b200")
def test_no_estimate_exceeds_what_is_called_at_most(case, machine):
    """The ratio of two bounds is none: dense products lose more to their bound than pruned ones, or less."""
    answer = hwmodels.predict(case, machine)
    assert answer.predicted_time_s >= answer.bound_time_s * (1 - 1e-12)
    assert answer.predicted_speedup_vs_dense <= answer.speedup_at_most * (1 + 1e-12)


@given(CASES, MACHINES, PACKINGS)
def test_fewer_bytes_never_cost_time(case, machine, packing):
    """The same codes packed closer: whatever else happens, the product does not get slower."""
    other = dataclasses.replace(case, format=dataclasses.replace(case.format, packing=packing))
    one, two = hwmodels.predict(case, machine), hwmodels.predict(other, machine)
    assume(one.execution == two.execution)
    fewer, more = sorted((one, two), key=lambda answer: answer.traffic_bytes)
    assert fewer.bound_time_s <= more.bound_time_s


@given(
    CASES,
    MACHINES,
    st.sampled_from(["dram_bandwidth_bytes_per_s", "clock_hz", "vector_peak_flop_per_s"]),
    st.floats(1, 10),
)
def test_a_faster_machine_is_never_slower(case, machine, name, factor):
    spec = hwmodels.load_machine(machine)
    before, after = hwmodels.predict(case, spec), hwmodels.predict(case, faster(spec, name, factor))
    assert after.bound_time_s <= before.bound_time_s


@given(CASES, MACHINES)
def test_density_one_is_never_faster_than_dense(case, machine):
    m = case.pattern.m
    answer = hwmodels.predict(
        dataclasses.replace(case, format=dataclasses.replace(case.format, pattern=Pattern(m, m))), machine
    )
    assert answer.bound_speedup_vs_dense <= 1


@given(CASES, MACHINES)
def test_speedup_is_bounded_by_the_byte_ratio_when_both_are_bound_by_memory(case, machine):
    answer = hwmodels.predict(case, machine)
    dense = hwmodels.predict(dataclasses.replace(case, format=None), machine)
    byte_ratio = answer.dense_traffic_bytes / answer.traffic_bytes
    if dense.limit == "memory":
        assert answer.bound_speedup_vs_dense <= byte_ratio * (1 + 1e-12)
    if answer.limit == "memory":
        assert answer.bound_speedup_vs_dense >= byte_ratio * (1 - 1e-12)


@given(CASES, MACHINES)
def test_the_dense_baseline_is_the_dense_case(case, machine):
    answer = hwmodels.predict(case, machine)
    dense = hwmodels.predict(dataclasses.replace(case, format=None), machine)
    assert dense.execution == "dense"
    assert dense.bound_time_s == answer.bound_dense_time_s
    assert dense.traffic_bytes == answer.dense_traffic_bytes
    assert (dense.bound_decode_s, dense.bound_select_s, dense.metadata_bytes) == (0, 0, 0)
    assert dense.bound_speedup_vs_dense == 1


@given(CASES, MACHINES, st.sampled_from(["M", "N", "K"]), st.integers(1, 500))
def test_a_larger_product_never_takes_less_time(case, machine, name, growth):
    larger = dataclasses.replace(case.shape, **{name: getattr(case.shape, name) + growth})
    small = hwmodels.predict(case, machine)
    large = hwmodels.predict(dataclasses.replace(case, shape=larger), machine)
    assert small.bound_time_s <= large.bound_time_s


@given(SHAPES, MACHINES, OPERANDS, st.integers(1, 31))
def test_keeping_more_never_takes_less_time(shape, machine, operand, n):
    """Bitmask codes have the same length whatever N is."""
    times = [
        hwmodels.predict(Case(shape, Pattern(kept, 32), sparse_operand=operand), machine)
        for kept in (n, n + 1)
    ]
    assume(times[0].execution == times[1].execution)
    assert times[0].bound_time_s <= times[1].bound_time_s

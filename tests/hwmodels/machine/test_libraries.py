"""Properties of vendor libraries: what a generation without its own takes, and that published rows bear the values out."""

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate.families import predict_rows
from hwmodels.machine.libraries import (
    LATENCY,
    LAUNCH,
    PROPERTIES,
    RATE,
    RESTREAM_TOKENS,
    VALUE_TYPES,
    LibrariesFile,
    chain,
    left_out,
    libraries,
    properties,
    weak_baseline,
)
from nmsim.errors import SpecError
from nmsim.support.schema import load_record
from validate.judge.row_table import open_row_table
from validate.judge.rows import MORE_FILE

GPUS = [name for name in hwmodels.machine_names() if hwmodels.load_machine(name).family == "gpu"]
BF16, FP8, INT8 = (VALUE_TYPES.index(name) for name in ("bf16", "fp8", "int8"))


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_names_its_generation(name):
    """Libraries of NVIDIA are in the file; no row of AMD was ever published."""
    spec = hwmodels.load_machine(name)
    assert spec.generation
    assert bool(chain(spec.generation)) == spec.generation.startswith("sm_")


def test_a_generation_takes_what_it_lacks_from_the_nearest_one():
    assert chain("sm_121") == ("sm_121", "sm_120", "sm_89", "sm_86", "sm_80")
    ada, client = properties("sm_89"), properties("sm_120")
    assert (client[:, :, RATE] == ada[:, :, RATE]).all()
    assert (client[:, :, LAUNCH] != ada[:, :, LAUNCH]).all()
    assert (properties(left_out("sm_121")) == client).all()
    assert (properties("sm_87") == properties("sm_80")).all()


def test_a_type_without_properties_takes_those_of_the_same_unit():
    table = properties("sm_90")
    assert (table[VALUE_TYPES.index("fp16")] == table[BF16]).all()
    assert (table[VALUE_TYPES.index("int4")] == table[INT8])[:, [RATE, LATENCY]].all()
    assert (table[VALUE_TYPES.index("fp32")][:, RATE] == 1).all()


@pytest.mark.parametrize("generation", [None, "gfx942"])
def test_what_holds_where_nothing_is_known(generation):
    table = properties(generation)
    assert table.shape == (len(VALUE_TYPES), 2, len(PROPERTIES))
    assert (table[:, :, [RATE, LATENCY, LAUNCH]] == 1).all()
    assert table[BF16, 1, RESTREAM_TOKENS] == 128
    assert not weak_baseline(generation, "int8")


def test_weak_baselines():
    """Dense INT8 of A100 and B200, as measured: 396 of 624 and 940 of 4500 Tflop/s."""
    weak = [
        (name, dtype)
        for name in libraries()
        for dtype in ("bf16", "fp8", "int8")
        if weak_baseline(name, dtype)
    ]
    assert {name for name, dtype in weak if dtype == "int8"} >= {"sm_80", "sm_100"}
    assert {dtype for _, dtype in weak} == {"int8"}


def test_a_generation_like_an_unknown_one_is_refused():
    entry = {"source": "a test", "types": {}}
    with pytest.raises(SpecError, match=r"generation.a.like.*expected one of a"):
        load_record(LibrariesFile, {"generation": {"a": entry | {"like": "b"}}})


@pytest.fixture(scope="module")
def large():
    """Published 2:4 rows of 4096 tokens and more, with predictions under the constants and properties that ship."""
    names = ["machine", "dtype", "M", "N", "K", "kernel_family", "dense_time_s", "sparse_time_s"]
    table = open_row_table(MORE_FILE).select(names).to_pandas()
    rows = table[(table["kernel_family"] == "library").to_numpy() & (table["M"] >= 4096).to_numpy()].astype(
        {"dtype": str}
    )
    rows = rows.assign(baseline_dtype=rows["dtype"], pattern="2:4", density=0.5, l2_state="warm")
    parts = [predict_rows(one, str(name)).assign(generation=hwmodels.load_machine(str(name)).generation)
             for name, one in rows[rows["dtype"] != "fp4"].groupby("machine", observed=True)]  # fmt: skip
    return rows.join(pd.concat(parts), how="inner")


def test_rates_of_large_products_bear_the_properties_out(large):
    """Of each generation and value type: the median product of many tokens is within an eighth of what was measured."""
    groups = large.groupby(["generation", "dtype"], observed=True)
    assert len(groups) >= 15
    for kind, rows in groups:
        if not libraries()[kind[0]].types:  # a stranger
            continue
        for side in ("dense", "sparse"):
            error = np.log(rows[f"predicted_{side}_time_s"] / rows[f"{side}_time_s"]).median()
            assert abs(error) < 0.125, (kind, side)

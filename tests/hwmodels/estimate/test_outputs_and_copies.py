"""Width of outputs, and products of one launch: bytes against a plain count, times against the same products without them."""

import math

import pandas as pd
import pytest

import hwmodels
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError

MACHINES = ("h200", "h200-8x16", "epyc-2core")


def table(**columns):
    base = {"M": 64, "N": 4096, "K": 2048, "dtype": "bf16", "pattern": "8:16", "encoding": "bitmask"}
    return pd.DataFrame([base | columns])


@pytest.mark.parametrize("machine", MACHINES)
def test_a_table_without_the_columns_is_one_with_their_defaults(machine):
    plain = hwmodels.predict(table(), machine)
    said = hwmodels.predict(table(output_bits=16, input_copies=1), machine)
    for name in hwmodels.PREDICTED_COLUMNS:
        assert plain[name].tolist() == said[name].tolist(), name
    nothing = hwmodels.predict(table(output_bits=None, input_copies=None), machine)
    assert nothing["predicted_time_s"].tolist() == plain["predicted_time_s"].tolist()


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_output_bytes_are_counted(bits):
    (found,) = hwmodels.predict(table(M=3, N=5, output_bits=bits), "h200")["output_bytes"]
    assert found == math.ceil(3 * 5 * bits / 8)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("pattern", ["dense", "2:4", "8:16"])
def test_narrower_outputs_take_no_longer(machine, pattern):
    times = [
        hwmodels.predict(table(M=4096, K=64, pattern=pattern, output_bits=bits), machine)
        for bits in (4, 8, 16, 32)
    ]
    for name in ("predicted_time_s", "predicted_dense_time_s", "bound_memory_s", "bound_dense_time_s"):
        values = [float(each[name].iloc[0]) for each in times]
        assert values == sorted(values), name
        # The best dense case of a CPU is limited by its multiplications.
        assert values[0] < values[-1] or name == "bound_dense_time_s", name


@pytest.mark.parametrize("operand", ["weights", "activations"])
def test_copies_read_their_own_inputs_and_share_nothing(operand):
    """Three products of 5 tokens, N = 100 each: as three products of their own, byte for byte."""
    one = hwmodels.predict(table(M=5, N=100, sparse_operand=operand), "epyc-2core")
    three = hwmodels.predict(table(M=5, N=300, sparse_operand=operand, input_copies=3), "epyc-2core")
    names = ["values_bytes", "metadata_bytes", "dense_operand_bytes", "output_bytes", "dense_traffic_bytes"]
    assert [int(three[name].iloc[0]) for name in names] == [3 * int(one[name].iloc[0]) for name in names]
    assert float(three["bound_time_s"].iloc[0]) == pytest.approx(3 * float(one["bound_time_s"].iloc[0]))


@pytest.mark.parametrize("operand", ["weights", "activations"])
@pytest.mark.parametrize("machine", MACHINES)
def test_more_copies_take_no_less_time(machine, operand):
    times = [
        float(
            hwmodels.predict(table(M=512, input_copies=copies, sparse_operand=operand), machine)[
                "predicted_time_s"
            ].iloc[0]
        )
        for copies in (1, 2, 2.5, 64)
    ]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_one_case_takes_an_output_type():
    case = Case(GemmShape(2048, 4096, 512), "8:16")
    plain, narrow = (hwmodels.predict(case, "h200", output_dtype=kind) for kind in (None, "int8"))
    assert (plain.output_bytes, narrow.output_bytes) == (2048 * 4096 * 2, 2048 * 4096)
    rows = hwmodels.predict(table(M=2048, N=4096, K=512), "h200", output_dtype="int8")
    assert rows["predicted_time_s"].iloc[0] == narrow.predicted_time_s
    assert "output_bits" not in rows


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"output_bits": 0}, "output_bits"),
        ({"output_bits": 7.5}, "output_bits"),
        ({"output_bits": "eight"}, "output_bits"),
        ({"output_bits": True}, "output_bits"),
        ({"input_copies": 0.5}, "input_copies"),
        ({"input_copies": "2"}, "input_copies"),
        ({"input_copies": math.inf}, "input_copies"),
    ],
)
def test_bad_widths_and_copies_are_refused(columns, problem):
    with pytest.raises(RowError, match=rf"row 0.*{problem}.*expected"):
        hwmodels.predict(table(**columns), "h200")


def test_an_output_type_is_said_once():
    with pytest.raises(RowError, match="output_bits"):
        hwmodels.predict(table(output_bits=8), "h200", output_dtype="int8")
    with pytest.raises(RowError, match="output_dtype='int7'"):
        hwmodels.predict(table(), "h200", output_dtype="int7")

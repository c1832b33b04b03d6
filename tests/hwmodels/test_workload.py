"""The table of cases of a model has each layer in each phase with each format; bad arguments are refused."""

import pytest

import hwmodels
from nmsim.errors import RowError, SpecError
from nmsim.pattern import Pattern


def test_cases_count_tokens_by_phase():
    table = hwmodels.cases(
        "llama-2-7b",
        dtype="fp8",
        formats=["2:4/index", "2:4/index/byte", Pattern(8, 16), None],
        sparse_operand="activations",
        decode_batches=[1, 16],
        prefill_lengths=[512],
        prefill_batch=2,
    )
    assert len(table) == 3 * 7 * 2 * 2
    assert list(table.columns) == [
        "model", "layer", "count", "M", "N", "K",
        "phase", "dtype", "sparse_operand", "pattern", "encoding", "packing",
    ]  # fmt: skip
    assert table.groupby("phase")["M"].unique().map(list).to_dict() == {"decode": [1, 16], "prefill": [1024]}
    assert table["pattern"].head(4).tolist() == ["2:4", "2:4", "8:16", "dense"]
    assert table["packing"].head(3).tolist() == ["bitstream", "byte", "bitstream"]
    assert set(table["sparse_operand"]) == {"activations"}


def test_cases_list_the_head_as_dense_on_request():
    table = hwmodels.cases("llama-2-7b", decode_batches=[1, 2], prefill_lengths=[8], unpruned=True)
    head = table[table["layer"] == "lm_head"]
    assert head["pattern"].tolist() == ["dense"] * 3
    assert (hwmodels.predict(head, "h200")["execution"] == "dense").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "fp12"}, r"dtype='fp12': expected one of fp32"),
        ({"sparse_operand": "both"}, r"sparse_operand='both': expected one of weights, activations"),
        ({"decode_batches": [0]}, r"decode_batches: 0: expected a positive int"),
        ({"prefill_lengths": [1.5]}, r"prefill_lengths: 1.5: expected a positive int"),
        ({"prefill_batch": -1}, r"prefill_batch: -1: expected a positive int"),
    ],
)
def test_cases_refuse_bad_arguments(arguments, message):
    with pytest.raises(RowError if "dtype" in arguments else SpecError, match=message):
        hwmodels.cases("llama-2-7b", **arguments)

"""Value types under the names that other programs give them."""

import pytest

from nmsim.case import VALUE_BITS, Case, GemmShape, case_id, value_type
from nmsim.errors import RowError

SHAPE = GemmShape(1, 64, 64)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((name, name) for name in VALUE_BITS),
        ("float16", "fp16"),
        ("half", "fp16"),
        ("torch.float16", "fp16"),
        ("bfloat16", "bf16"),
        ("BF16", "bf16"),
        ("float", "fp32"),
        ("float32", "fp32"),
        ("F32", "fp32"),
        ("FP8", "fp8"),
        ("float8_e4m3", "fp8"),
        ("float8_e4m3fn", "fp8"),
        ("torch.float8_e5m2", "fp8"),
        ("F8_E4M3", "fp8"),
        ("fp8-e5m2", "fp8"),
        ("float4_e2m1fn", "fp4"),
        ("i8", "int8"),
    ],
)
def test_a_value_type_has_many_names(text, name):
    assert value_type(text) == Case(SHAPE, dtype=text).dtype == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp12", r"dtype='fp12': expected one of fp32, tf32, .*; did you mean 'fp\d+'"),
        ("flaot16", r"did you mean 'fp16'"),
        ("float99", r"did you mean 'fp32'"),
        ("e4m3_half", r"expected one of fp32"),
        (None, r"dtype=None: expected one of fp32, tf32, fp16, bf16, fp8, int8, fp4, int4$"),
    ],
)
def test_another_name_is_refused_with_the_nearest(text, message):
    with pytest.raises(RowError, match=message):
        value_type(text)


def test_names_of_one_type_ask_one_case():
    assert case_id(Case(SHAPE, dtype="bfloat16")) == case_id(Case(SHAPE))

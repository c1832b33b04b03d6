"""Closed forms a reader can redo by hand with the numbers of the specs."""

import dataclasses
import re
from pathlib import Path

import pytest

import hwmodels
from hwmodels.estimate.bounds import Bound
from hwmodels.machine.software import comparators, decode_cost, select_cost
from nmsim.case import Case, GemmShape
from nmsim.errors import EncodingError, RowError, SpecError
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.support.schema import Quantity


def case(M=1, N=4096, K=4096, pattern="8:16", encoding="combinatorial", packing="bitstream", **more):
    return Case(GemmShape(M, N, K), f"{pattern}/{encoding}/{packing}" if pattern else None, **more)


def test_the_worked_example_of_the_cost_model_page():
    answer = hwmodels.predict(case(), "h200")
    assert (answer.values_bytes, answer.metadata_bytes) == (16_777_216, 1_835_008)
    assert (answer.dense_operand_bytes, answer.output_bytes) == (8192, 8192)
    assert (answer.traffic_bytes, answer.dense_traffic_bytes) == (18_628_608, 33_570_816)
    assert answer.bound_memory_s == 18_628_608 / 4.8e12
    assert answer.bound_decode_s == pytest.approx(4096 * 256 * 110 / (132 * 128 * 1.98e9))
    assert answer.bound_matrix_s == pytest.approx(2 * 4096 * 4096 / 989.4e12)
    assert answer.bound_select_s == 0
    assert answer.bound_dense_time_s == 33_570_816 / 4.8e12
    assert answer.bound_speedup_vs_dense == pytest.approx(1.802, abs=5e-4)
    assert (answer.execution, answer.limit) == ("expand", "memory")
    assert answer.explanation == (
        "memory: 18.63 MB at 4.8 TB/s takes 3.881 us; the next stage, decode, takes 3.448 us (89 %)"
    )
    page = Path(hwmodels.__file__).parents[1] / "docs/explanation/cost-model.md"
    text = page.read_text(encoding="utf-8")
    assert f"# {answer.explanation}" in text
    for count in (
        answer.values_bytes,
        answer.metadata_bytes,
        answer.traffic_bytes,
        answer.dense_traffic_bytes,
    ):
        assert f"| {count:,} |" in text
    snippet = re.search(r"```python\n(.*?)```", text, flags=re.S)
    exec(compile(snippet[1], str(page), "exec"), {})


@pytest.mark.parametrize(
    ("encoding", "limit"), [("combinatorial", 16 / 8.875), ("bitmask", 16 / 9), ("index", 16 / 10)]
)
def test_decode_speedup_tends_to_the_byte_ratio(encoding, limit):
    """8:16 in 16 bits: 1.803x, 1.778x and 1.6x as the weights outgrow the vectors."""
    ratios = [
        hwmodels.predict(case(N=N, K=N, encoding=encoding), "rtx4090").bound_speedup_vs_dense
        for N in (1024, 8192, 65536)
    ]
    assert ratios == sorted(ratios)
    assert ratios[-1] < limit
    assert ratios[-1] == pytest.approx(limit, rel=1e-4)


def test_native_2_4_prefill_is_twice_as_fast_on_paper():
    answer = hwmodels.predict(case(8192, 8192, 8192, "2:4", "index"), "a100-sxm")
    assert (answer.execution, answer.limit) == ("native", "matrix")
    assert answer.bound_matrix_s == 2 * 8192**3 / 624e12
    assert answer.bound_speedup_vs_dense == pytest.approx(2)
    assert answer.explanation.startswith("matrix: 1762 us; the next stage, memory, takes ")


def test_prefill_without_a_native_unit_gains_nothing():
    answer = hwmodels.predict(case(8192, 8192, 8192), "a100-sxm")
    assert (answer.execution, answer.limit) == ("expand", "matrix")
    assert answer.bound_speedup_vs_dense == 1
    native = hwmodels.predict(case(8192, 8192, 8192), "h200-8x16")
    assert native.bound_speedup_vs_dense == pytest.approx(1978.9 / 989.4)


def test_what_a_sparse_unit_does_not_take_is_expanded():
    taken = {"pattern": "2:4", "encoding": "index"}
    assert hwmodels.predict(case(**taken), "h200").execution == "native"
    for change in (
        {"pattern": "4:8"}, {"encoding": "bitmask"}, {"packing": "byte"}, {"dtype": "fp32"},
    ):  # fmt: skip
        assert hwmodels.predict(case(**{**taken, **change}), "h200").execution == "expand"
    assert hwmodels.predict(case(**taken, dtype="fp16"), "epyc-2core").execution == "expand"
    assert hwmodels.predict(case(pattern=None), "h200").execution == "dense"


def test_software_decoding_binds_on_b200():
    """148 SMs x 128 lanes x 1.98 GHz decode a 110-instruction group slower than 8 TB/s brings 34 bytes."""
    answer = hwmodels.predict(case(encoding="bitmask"), "b200")
    assert answer.limit == "decode"
    assert answer.bound_time_s == pytest.approx(4096 * 256 * 110 / (148 * 128 * 1.98e9))
    assert "decode: 3.075 us; the next stage, memory" in answer.explanation


def test_hardware_decoder_rate():
    answer = hwmodels.predict(case(), "h200-8x16")
    assert answer.bound_decode_s == pytest.approx(4096 * 4096 / (132 * 128 * 1.98e9))
    assert answer.execution == "native"


def test_online_selection_is_charged_to_activations_only():
    weights = hwmodels.predict(case(512), "h200")
    activations = hwmodels.predict(case(512, sparse_operand="activations"), "h200")
    assert weights.bound_select_s == 0
    network_and_encoding = 2 * 56 + 110
    assert activations.bound_select_s == pytest.approx(
        512 * 256 * network_and_encoding / (132 * 128 * 1.98e9)
    )
    native = hwmodels.predict(case(512, sparse_operand="activations"), "h200-8x16")
    assert native.bound_select_s == pytest.approx(512 * 4096 / (132 * 128 * 1.98e9))


def test_a_slow_selector_becomes_the_bound():
    spec = hwmodels.load_machine("h200-8x16")
    slow = dataclasses.replace(
        spec.native[1], selector_elements_per_s=Quantity(16e9, "elements_per_s", "assumed", "a test")
    )
    answer = hwmodels.predict(
        case(512, sparse_operand="activations"), dataclasses.replace(spec, native=(spec.native[0], slow))
    )
    assert answer.limit == "select"
    assert answer.bound_time_s == 512 * 256 / 1e9


def test_vector_lanes_do_only_the_kept_multiplications():
    """On a CPU without a matrix unit 1:16 leaves a sixteenth of the dense operations."""
    answer = hwmodels.predict(case(64, pattern="1:16", dtype="fp32", encoding="index"), "epyc-2core")
    assert answer.bound_matrix_s == pytest.approx(2 * 64 * 4096 * 4096 / 16 / 224e9)


@pytest.mark.parametrize(
    ("encoding", "pattern", "instructions"),
    [
        ("index", "8:16", 88), ("bitmask", "8:16", 110), ("gap", "8:16", 96), ("gap:2", "8:16", 96),
        ("combinatorial", "8:16", 110), ("combinatorial", "16:32", 176 + 128), ("joint:4", "2:4", 27.5 + 20),
        ("index", "2:4", 22), ("bitmask", "16:32", 220),
    ],
)  # fmt: skip
def test_software_decoding_counts(encoding, pattern, instructions):
    cost = decode_cost(sparse_format(pattern, encoding=encoding))
    assert cost.instructions == instructions
    assert cost.kind == ("measured" if encoding in ("index", "bitmask") else "assumed")


def test_a_tie_goes_to_the_first_stage():
    assert Bound(2.0, 2.0, 1.0, 2.0).stage == 0
    assert Bound(1.0, 2.0, 1.0, 2.0).stage == 1
    assert Bound(1.0, 1.0, 2.0, 2.0).stage == 2


def test_selection_network():
    assert [comparators(Pattern(1, m)) for m in (1, 2, 3, 4, 8, 16, 32)] == [0, 1, 4, 4, 16, 56, 176]
    assert select_cost(SparseFormat.parse("2:4/index")).instructions == 2 * 4 + 22


def test_scalar_errors():
    with pytest.raises(
        RowError, match=r"dtype 'fp8': a100-sxm has no peak for it; it has fp32, tf32, fp16, bf16"
    ):
        hwmodels.predict(case(dtype="fp8"), "a100")
    with pytest.raises(RowError, match=r"case: encoding 'bitmaks': expected one of bitmask"):
        hwmodels.predict(Case(GemmShape(1, 64, 64), "8:16/bitmaks"), "a100")
    with pytest.raises(RowError, match=r"case: packing 'bits': expected one of bitstream"):
        hwmodels.predict(Case(GemmShape(1, 64, 64), "8:16/bitmask/bits"), "a100")
    with pytest.raises(RowError, match=r"case N=536870912: expected at most 268435456"):
        hwmodels.predict(case(N=1 << 29), "a100")
    with pytest.raises(RowError, match=r"cases of type list: expected a Case or a pandas DataFrame"):
        hwmodels.predict([case()], "a100")
    with pytest.raises(SpecError, match=r"hardware 'a1000': no machine"):
        hwmodels.predict(case(), "a1000")
    with pytest.raises(EncodingError, match=r"encoding 'rank': expected one of"):
        decode_cost(sparse_format("2:4", encoding="rank"))

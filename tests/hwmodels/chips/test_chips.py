"""One chip for every question: machines and core designs by name and file, and the same answers as their own functions."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.chips.load import answered_by
from hwmodels.silicon.energy import energy
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError, SpecError
from nmsim.pattern import Pattern
from nmsim.support.toml import to_toml

DESIGNS = ("edge-npu-8x16", "flexible-8x16", "nvidia-like-2x4", "dense")
EDGE = hwmodels.load_core("edge-npu-8x16")


def write(chip, path, **changes):
    path.write_text(to_toml(dataclasses.replace(chip, **changes)), encoding="utf-8")
    return str(path)


def test_no_name_is_that_of_two_chips():
    assert not set(hwmodels.machine_names()) & set(hwmodels.core_names())


@pytest.mark.parametrize("name", [*DESIGNS, "h200", "epyc-2core"])
def test_a_chip_is_the_same_by_name_file_and_itself(tmp_path, name):
    chip = hwmodels.load_chip(name)
    again = hwmodels.load_chip(
        write(chip, tmp_path / "own.toml", **({"aliases": ()} if name == "h200" else {}))
    )
    assert type(again) is type(chip)
    assert again.id == chip.id
    assert hwmodels.load_chip(chip) is chip
    assert answered_by(again) == ("closed form" if name in DESIGNS else "estimate")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("h20o", "Did you mean h20?"), ("flexible-8x1", "Did you mean flexible-8x16?"), (7, "a name")],
)
def test_an_unknown_chip_is_named_with_what_is_known(name, hint):
    with pytest.raises(SpecError, match=r"h20o|flexible-8x1|chip 7") as caught:
        hwmodels.load_chip(name)
    assert hint in str(caught.value)


def test_a_file_that_is_neither_is_refused_by_name(tmp_path):
    broken = tmp_path / "half.toml"
    broken.write_text("id = 'x'\n[array]\narray_rows = 4\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"half.toml.*array_cols"):
        hwmodels.load_chip(str(broken))


def test_files_of_one_id_are_told_apart(tmp_path):
    one, two = (
        write(EDGE, tmp_path / f"{name}.toml", cores=cores) for name, cores in (("small", 1), ("large", 4))
    )
    assert [chip.id for chip in hwmodels.load_chips([one, two])] == ["small", "large"]
    assert [chip.id for chip in hwmodels.load_chips([one, "h200"])] == ["edge-npu-8x16", "h200"]
    with pytest.raises(SpecError, match="edge-npu-8x16 comes twice"):
        hwmodels.load_chips(["edge-npu-8x16", "edge-npu-8x16"])


CASES = [
    (chip, stored, operand, shape)
    for chip, kinds in (("edge-npu-8x16", "int8"), ("flexible-8x16", "bf16"), ("nvidia-like-2x4", "bf16"))
    for stored in (None, "2:4/index", "8:16/bitmask")
    for operand in ("weights", "activations")
    for shape in ((1, 4096, 4096), (512, 1024, 4096))
    if not (chip == "nvidia-like-2x4" and stored == "8:16/bitmask")
]


@pytest.mark.parametrize(("chip", "stored", "operand", "shape"), CASES)
def test_a_table_is_what_predict_core_and_energy_say(chip, stored, operand, shape):
    """Road one: a table of points at once. Road two: one product through the closed form, and its energy."""
    dtype = hwmodels.load_core(chip).dtypes[0]
    case = Case(GemmShape(*shape), stored, dtype=dtype, sparse_operand=operand)
    if not hwmodels.load_core(chip).encodings_of(case.pattern or Pattern(2, 4)):
        with pytest.raises(RowError, match="decodes"):
            hwmodels.predict(case, chip)
        return
    expected, joules = hwmodels.predict_core(case, chip), energy(case, chip).total
    found = hwmodels.predict(case, chip)
    assert found.predicted_time_s == pytest.approx(expected.time_s, rel=1e-12)
    assert found.bound_time_s == found.predicted_time_s
    assert found.predicted_speedup_vs_dense == pytest.approx(expected.predicted_speedup_vs_dense, rel=1e-12)
    assert found.execution == expected.execution
    assert found.explanation == expected.explanation
    assert found.traffic_bytes == pytest.approx(
        expected.traffic_bytes["dram_read_bytes"] + expected.traffic_bytes["dram_write_bytes"], abs=4
    )
    assert math.isnan(found.predicted_speedup_low)
    assert found.extrapolates
    assert found.comparable_rows == 0
    fields = {} if stored is None else {"pattern": stored.split("/")[0], "encoding": stored.split("/")[1]}
    sizes = dict(zip("MNK", shape, strict=True))
    table = pd.DataFrame([{**sizes, "dtype": dtype, "sparse_operand": operand, "pattern": None, **fields}])
    row = hwmodels.predict(table, chip).iloc[0]
    assert row["energy_joules"] == pytest.approx(joules.nominal, rel=1e-9)
    assert row["energy_joules_low"] <= row["energy_joules"] <= row["energy_joules_high"]


def test_products_of_one_launch_take_the_time_of_each():
    one = pd.DataFrame({"M": [4], "N": [512], "K": [1024], "dtype": "int8", "pattern": "8:16"})
    three = one.assign(N=3 * 512, input_copies=3)
    alone, all_of_them = (hwmodels.predict(table, EDGE).iloc[0] for table in (one, three))
    for name in ("predicted_time_s", "predicted_dense_time_s", "energy_joules", "values_bytes"):
        assert all_of_them[name] == pytest.approx(3 * alone[name])


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"dtype": ["int8", "bf16"]}, r"row 1.*bf16.*takes int8"),
        ({"pattern": ["8:16", "8:16"], "encoding": ["bitmask", "gap:4"], "dtype": "int8"}, r"row 1.*gap:4"),
        ({"N": [4, 0], "dtype": "int8"}, r"row 1.*column N"),
        ({"limit": ["", ""], "dtype": "int8"}, "column limit: already in the table"),
        ({"energy_joules": [0, 0], "dtype": "int8"}, "column energy_joules: already in the table"),
    ],
)
def test_a_wrong_cell_is_named_with_its_row(columns, problem):
    table = pd.DataFrame({"M": [1, 1], "N": [64, 64], "K": [64, 64]}).assign(**columns)
    with pytest.raises(RowError, match=problem):
        hwmodels.predict(table, EDGE)


def test_a_design_without_known_costs_has_no_joules():
    unknown = dataclasses.replace(EDGE, node_nm=1, sources=EDGE.sources)
    table = pd.DataFrame({"M": [1], "N": [64], "K": [64], "dtype": "int8"})
    row = hwmodels.predict(table, unknown).iloc[0]
    assert np.isnan(row["energy_joules"])
    assert row["predicted_time_s"] > 0


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_step_is_the_sum_of_its_products(phase):
    """Linear layers and their joules, added up from `predict_core` and `energy` one by one."""
    model, tokens = hwmodels.load_model("llama-3.1-8b"), 64
    found = hwmodels.step(
        model, EDGE, format="8:16/bitmask", phase=phase, batch=1, context_tokens=0, new_tokens=tokens
    )
    time_s = joules = 0.0
    for layer in model.layers:
        rows = 1 if layer.role == "head" and phase == "prefill" else tokens
        case = Case(GemmShape(rows, layer.N, layer.K), "8:16/bitmask" if layer.pruned else None, dtype="int8")
        time_s += layer.count * hwmodels.predict_core(case, EDGE).time_s
        joules += layer.count * energy(case, EDGE).total.nominal
    assert found.time_s == pytest.approx(time_s)
    assert found.joules.nominal == pytest.approx(joules)
    assert found.joules.low < found.joules.nominal < found.joules.high
    assert found.record()["energy_joules"] == found.joules.nominal


def test_attention_on_a_design_reads_its_cache_and_multiplies():
    """At one token the cache is read once at the bandwidth of DRAM; twice the sequences take twice the time and energy."""
    one, two = (
        hwmodels.step("llama-3.1-8b", "flexible-8x16", batch=batch, context_tokens=32768) for batch in (1, 2)
    )
    core = hwmodels.load_core("flexible-8x16")
    read_s = one.cache_bytes / (core.dram_bytes_per_cycle * core.clock_hz)
    assert read_s < one.attention_time_s < 1.2 * read_s
    assert two.attention_time_s == pytest.approx(2 * one.attention_time_s, rel=0.05)
    (row,), (double,) = one.attention_rows, two.attention_rows
    assert double.joules.nominal == pytest.approx(2 * row.joules.nominal, rel=0.05)
    assert row.dense_joules == row.joules


def test_attention_of_a_prompt_is_limited_by_its_multiplications():
    found = hwmodels.step("llama-3.1-8b", EDGE, phase="prefill", context_tokens=8192)
    (row,) = found.attention_rows
    pairs = 8192 * 8193 // 2
    flop = 32 * 2 * 2 * 32 * 128 * pairs
    least_s = flop / 2 / (EDGE.macs_per_cycle(8) * EDGE.clock_hz)
    assert least_s < row.time_s < 1.5 * least_s


def test_what_a_design_does_not_take_is_said():
    found = hwmodels.step("llama-3.1-8b", EDGE, context_tokens=1024)
    said = " ".join(found.notes)
    assert "does not take bf16: its first value type, int8, is taken" in said
    assert "Attention multiplies in int8" in said
    with pytest.raises(RowError, match="edge-npu-8x16 takes int8"):
        hwmodels.step("llama-3.1-8b", EDGE, context_tokens=1024, dtype="bf16")
    machine = hwmodels.step("llama-3.1-8b", "h200", context_tokens=1024)
    assert math.isnan(machine.joules.nominal)
    assert machine.record()["energy_joules"] is None


def test_best_format_of_a_design_is_its_shortest_code():
    assert (
        hwmodels.best_format("8:16", EDGE).encoding.expected_bits_per_group(
            hwmodels.best_format("8:16", EDGE).pattern
        )
        == 14
    )
    only = dataclasses.replace(EDGE, encodings=("bitmask",))
    assert hwmodels.best_format("8:16", only).short == "8:16/bitmask"


def run(nmsim, *words):
    code, out, err = nmsim(*words)
    assert code == 0, err
    return out


def test_predict_takes_both_kinds_in_one_table(nmsim):
    rows = json.loads(
        run(nmsim, "predict", "--json", "1,4096,4096", "-p", "8:16", "-H", "h200,edge-npu-8x16")
    )
    assert [row["answered_by"] for row in rows] == ["estimate", "closed form"]
    assert [row["dtype"] for row in rows] == ["bf16", "int8"]
    best = hwmodels.predict_core(Case(GemmShape(1, 4096, 4096), "8:16/tiled", dtype="int8"), EDGE)
    assert rows[1]["predicted_time_s"] == pytest.approx(best.time_s)
    assert rows[1]["predicted_speedup_low"] is None
    text = run(nmsim, "predict", "1,4096,4096", "-p", "8:16", "-H", "h200,edge-npu-8x16")
    assert "nobody has measured: edge-npu-8x16" in text


def test_predict_of_a_model_shows_energy_per_token(nmsim):
    asked = ("predict", "-m", "llama-3.2-1b", "--context", "2048", "-p", "dense,8:16", "-H", "edge-npu-8x16")
    dense, sparse = json.loads(run(nmsim, *asked, "--json"))
    assert sparse["energy_joules"] < sparse["dense_energy_joules"] == pytest.approx(dense["energy_joules"])
    assert "Energy per token" in run(nmsim, *asked)


def test_a_threshold_on_a_design_counts_its_own_energy(nmsim):
    asked = (
        "threshold",
        "llama-3.2-1b",
        "-p",
        "8:16/bitmask",
        "-H",
        "flexible-4x8",
        "--step",
        "64",
        "--losses",
        "",
    )
    (row,) = json.loads(run(nmsim, *asked, "--json"))["pruned"]
    assert row["hardware"] == row["core"] == "flexible-4x8"

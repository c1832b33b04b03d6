"""The main job from end to end: files, columns, sums, bits that equal the formula, and nothing half-written."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hwmodels
from nmsim import compress, packing, prune, save_file
from nmsim.case import Case, GemmShape, case_id
from nmsim.energy import Energy
from nmsim.errors import BitstreamError, EncodingError, NmsimError
from nmsim.format import sparse_format
from nmsim.pattern import Pattern
from nmsim.units import UNIT_SUFFIXES
from validate import run_study
from validate.study import report
from validate.study.bits import BITS_COLUMNS, bits_per_element, measured_row
from validate.study.study import CORE_FILES, FILES, LOSS_FILES
from validate.study.whole_model import MODEL_COLUMNS, STUDY_COLUMNS, fastest

PNG_START = b"\x89PNG\r\n\x1a\n"


def test_all_files_are_there_and_are_what_they_say(study):
    files = FILES | CORE_FILES | LOSS_FILES
    assert {path.name for path in study.folder.iterdir()} == set(files)
    for path in study.folder.glob("*.png"):
        assert path.read_bytes().startswith(PNG_START)
    summary = json.loads((study.folder / "study.json").read_text(encoding="utf-8"))
    assert summary == json.loads(json.dumps(study.found.summary))
    assert set(summary["files"]) == set(files)


def test_tables_have_their_columns_and_names_carry_units(study):
    for table, columns in (
        (study.study, STUDY_COLUMNS),
        (study.model, MODEL_COLUMNS),
        (study.bits, BITS_COLUMNS),
    ):
        assert tuple(table.columns) == columns
    # The ratio of two bounds is no bound, so that the estimate may exceed it; what is called at most it may not.
    assert (study.model["predicted_speedup_vs_dense"] <= study.model["speedup_at_most"] * (1 + 1e-12)).all()
    assert (study.study["predicted_time_s"] >= study.study["bound_time_s"] * (1 - 1e-12)).all()
    ratios = {f"predicted_speedup_{name}" for name in ("vs_dense", "low", "high")}
    for name in set(STUDY_COLUMNS) | set(MODEL_COLUMNS):
        if name.startswith("predicted_") and name not in ratios:
            assert name.endswith(tuple(UNIT_SUFFIXES)), name
    for name in BITS_COLUMNS:
        if name.startswith(("measured_", "formula_")):
            assert name.endswith(("_bits", "_bytes")), name


def test_the_table_of_cases_is_complete(study):
    sparse = study.study[study.study["pattern"] != "dense"]
    layers, steps, ways = (
        7,
        3,
        3 * 4 * 2,
    )  # q k v o gate up down; 1, 16, 2048 tokens; patterns x encodings x operands
    assert len(sparse) == 2 * layers * steps * ways
    assert len(study.study) - len(sparse) == 2 * (layers + 1) * steps
    assert set(sparse["count"]) == {3}


def test_a_row_is_the_prediction_of_its_case(study):
    row = study.study[
        (study.study["hardware"] == "h200-8x16")
        & (study.study["layer"] == "down")
        & (study.study["tokens"] == 16)
        & (study.study["pattern"] == "8:16")
        & (study.study["encoding"] == "combinatorial")
        & (study.study["sparse_operand"] == "weights")
    ].iloc[0]
    case = Case(GemmShape(16, 2048, 8192), "8:16/combinatorial", dtype="bf16", sparse_operand="weights")
    answer = hwmodels.predict(case, "h200-8x16")
    assert row["case_id"] == case_id(case)
    assert row["predicted_time_s"] == pytest.approx(answer.predicted_time_s, rel=1e-9)
    assert (row["execution"], row["limit"]) == ("native", answer.limit)


def test_the_head_stays_dense_and_prefill_runs_it_for_one_token(study):
    head = study.study[study.study["layer"] == "lm_head"]
    assert set(head["pattern"]) == {"dense"}
    assert head.loc[head["phase"] == "prefill", "M"].tolist() == [1, 1]
    assert sorted(head.loc[head["phase"] == "decode", "M"]) == [1, 1, 16, 16]


def test_the_model_is_the_sum_of_its_layers(study):
    """Recomputed by plain loops from study.csv."""
    rows = study.study.to_dict("records")
    for wanted in study.model.sample(25, random_state=0).to_dict("records"):
        here = [r for r in rows if all(r[k] == wanted[k] for k in ("hardware", "phase", "tokens"))]
        dense = {r["layer"]: r for r in here if r["pattern"] == "dense"}
        keys = ("sparse_operand", "pattern", "encoding")
        sparse = {r["layer"]: r for r in here if all(r[k] == wanted[k] for k in keys)}
        used = {**dense, **sparse}.values()
        time_s = sum(r["count"] * r["predicted_time_s"] for r in used)
        dense_s = sum(r["count"] * r["predicted_time_s"] for r in dense.values())
        assert wanted["predicted_time_s"] == pytest.approx(time_s, rel=1e-8)
        assert wanted["predicted_speedup_vs_dense"] == pytest.approx(dense_s / time_s, rel=1e-8)
        memory_s = sum(r["count"] * r["predicted_time_s"] for r in used if r["limit"] == "memory")
        assert wanted["predicted_memory_bound_s"] == pytest.approx(memory_s, rel=1e-8)
    stages = study.model.filter(regex=r"_bound_s$").sum(axis=1)
    assert np.allclose(stages, study.model["predicted_time_s"], rtol=1e-8)


def test_measured_bits_equal_the_formula(study):
    fixed = study.bits[study.bits["fixed_width"]]
    assert set(fixed["encoding"]) >= {"bitmask", "index", "combinatorial"}
    for row in fixed.itertuples():
        pattern = Pattern.parse(row.pattern)
        bits = packing.stream_bits(
            row.groups, sparse_format(pattern, encoding=row.encoding).bits_per_group, "bitstream"
        )
        assert row.measured_payload_bits == bits
        assert row.measured_metadata_bytes == -(-bits // 8)
    assert (fixed["measured_payload_bits"] >= fixed["entropy_bits"]).all()


def test_codes_that_differ_in_length_come_near_their_expectation(study):
    varying = study.bits[~study.bits["fixed_width"]]
    assert set(varying["pattern"]) == {"8:16", "16:32"}  # gap:2 of 2:4 needs no escape
    sums = varying.groupby("pattern")[["measured_metadata_bytes", "formula_metadata_bytes"]].sum()
    ratio = sums["measured_metadata_bytes"] / sums["formula_metadata_bytes"]
    assert ((ratio > 0.97) & (ratio < 1.03)).all()
    assert (ratio != 1).any()


def test_energy_kept_grows_with_freedom_and_values_are_half(study):
    energy = study.found.bits_per_elem.groupby("pattern")["energy_kept"].first()
    assert 0.85 < energy["2:4"] < energy["8:16"] < energy["16:32"] < 1
    assert (study.bits["measured_values_bytes"] * 2 == study.bits["dense_bytes"]).all()


@pytest.mark.usefixtures("blank_figures")
def test_bits_per_element_of_a_tensor_by_hand(tmp_path, tiny):
    """One row of 4 elements in 2:4: 2 values of 16 bits, one code of 3 bits in one byte."""
    path = tmp_path / "one.safetensors"
    save_file({"fc.weight": np.array([[3, 0, 4, 0]], np.float16)}, path)
    arguments = {**small(tmp_path), "formats": ["2:4/combinatorial"]}
    found = run_study(path, tiny.config, **arguments)
    row = bits_per_element(found.bits).iloc[0]
    assert row["measured_values_bits_per_elem"] == 8
    assert row["measured_metadata_bits_per_elem"] == 2
    assert row["measured_padding_bits_per_elem"] == 1.25
    assert row["measured_footprint_vs_dense"] == 5 / 8
    assert row["energy_kept"] == 1


def test_a_doctored_stream_is_refused():
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    mask = prune(x, "8:16")
    packed = compress(x, "8:16/combinatorial", mask=mask)
    assert measured_row("x", packed, mask, Energy(1.0, 1.0))[0] == "x"
    longer = replace(packed, metadata=np.append(packed.metadata, np.uint8(0)))
    with pytest.raises(BitstreamError, match="were encoded to 57 bytes of metadata, the formula says 56"):
        measured_row("x", longer, mask, Energy(1.0, 1.0))
    flipped = packed.metadata.copy()
    flipped[0] ^= 1
    with pytest.raises(EncodingError, match="decode to another mask"):
        measured_row("x", replace(packed, metadata=flipped), mask, Energy(1.0, 1.0))


def test_a_study_stops_when_an_encoder_writes_too_much(monkeypatch, tiny, tmp_path):
    def doctored(*args, **kwargs):
        packed = compress(*args, **kwargs)
        return replace(packed, metadata=np.append(packed.metadata, np.uint8(0)))

    monkeypatch.setattr("validate.study.bits.compress", doctored)
    with pytest.raises(BitstreamError, match=r"tiny\.safetensors: tensor 'model.*the formula says"):
        run_study(tiny.weights, tiny.config, **small(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_progress_runs_from_nothing_to_all(study):
    shares = [share for _, share in study.told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any(text.startswith("encoding model.layers.0") for text, _ in study.told)


@pytest.mark.usefixtures("blank_figures")
def test_a_failure_leaves_what_was_there(monkeypatch, tiny, tmp_path):
    folder = tmp_path / "out"
    run_study(tiny.weights, tiny.config, **small(tmp_path))
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken(*args):
        raise RuntimeError("no page today")

    monkeypatch.setattr(report, "render", broken)
    with pytest.raises(RuntimeError, match="no page"):
        run_study(tiny.weights, tiny.config, **{**small(tmp_path), "formats": ["2:4"]})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("blank_figures")
def test_a_second_run_replaces_its_files_and_leaves_others_alone(tiny, tmp_path):
    run_study(tiny.weights, tiny.config, **small(tmp_path))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    run_study(tiny.weights, tiny.config, **{**small(tmp_path), "formats": ["2:4"]})
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert set(pd.read_csv(tmp_path / "out" / "bits.csv")["pattern"]) == {"2:4"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_equal_encodings_are_settled_by_order():
    rows = pd.DataFrame(
        {
            "pattern": ["2:4"] * 3,
            "encoding": ["slow", "first", "second"],
            "predicted_speedup_vs_dense": [1.5, 1.7, 1.7001],
        }
    )
    assert fastest(rows, ["pattern"])["encoding"].tolist() == ["first"]
    rows.loc[2, "predicted_speedup_vs_dense"] = 1.71
    assert fastest(rows, ["pattern"])["encoding"].tolist() == ["second"]


def small(folder) -> dict:
    """The least a study takes."""
    return {
        "hardware": ["h200"],
        "formats": ["8:16/bitmask"],
        "batches": [1],
        "prefill": [],
        "out_dir": folder / "out",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": ["h300"]}, "hardware 'h300': no machine of that name"),
        ({"hardware": []}, "hardware=\\[\\]: expected a list of at least one"),
        (
            {"hardware": ["h200", "h200-sxm"]},
            "hardware: h200 is given 2 times, as h200 and h200-sxm: expected",
        ),
        ({"formats": ["8-16"]}, "pattern '8-16': expected 'N:M'"),
        ({"formats": "8:16"}, "formats='8:16': expected a list"),
        ({"formats": ["8:16/rle"]}, "encoding 'rle': expected one of"),
        ({"formats": ["8:16/index", "8:16/index/byte"]}, "formats: 8:16/index is given 2 times"),
        ({"formats": ["8:16/index/tight"]}, "packing 'tight': expected one of"),
        ({"formats": ["8:16/gap:2/byte"]}, "its codes differ in length"),
        ({"batches": []}, "batches and prefill are both empty"),
        ({"batches": [0]}, "decode_batches: 0: expected a positive int"),
        ({"batches": [4, 4]}, "batches: 4 is given 2 times"),
        ({"dtype": "fp4"}, "^dtype 'fp4': h200 has no peak for it"),
        ({"model": "llama-9"}, "model 'llama-9': neither a shipped model nor a file"),
        ({"weights": "absent.safetensors"}, "absent.safetensors: cannot be read"),
        ({"out_dir": "no/such/folder"}, "there is no folder"),
        ({"out_dir": __file__}, "is a file, expected the name of a folder"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, message, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "validate.study.study.measure_checkpoint", None
    )  # work would fail otherwise than expected
    arguments = {"weights": tiny.weights, "model": tiny.config, **small(tmp_path), **change}
    with pytest.raises(NmsimError, match=message):
        run_study(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_packed_checkpoint_is_refused(tiny, tmp_path):
    packed = tmp_path / "packed.safetensors"
    save_file({"fc.weight": compress(np.eye(64, dtype=np.float32), "8:16")}, packed)
    with pytest.raises(NmsimError, match="is packed already"):
        run_study(packed, tiny.config, **small(tmp_path))


def test_a_checkpoint_with_nothing_to_prune_is_refused(tiny, tmp_path):
    path = tmp_path / "vectors.safetensors"
    save_file({"norm.weight": np.ones(64, np.float32)}, path)
    with pytest.raises(NmsimError, match="none of its 1 tensors"):
        run_study(path, tiny.config, **small(tmp_path))

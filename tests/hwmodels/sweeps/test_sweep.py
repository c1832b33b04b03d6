"""Sweeps: every row is what one point says, however points are cut into chunks, wherever they are evaluated."""

import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
import threading

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.silicon.area import area
from hwmodels.silicon.energy import energy
from hwmodels.sweeps import evaluate, kept_points, load_space, pareto
from hwmodels.sweeps.evaluate import Designs
from hwmodels.sweeps.run import Parts, evaluate_chunk
from hwmodels.tensorcore.cycles import LIMITS, Cycles, closed_form
from hwmodels.tensorcore.point import execution, point
from hwmodels.tensorcore.record import SparseTensorCore, load_core
from nmsim.case import Case, GemmShape
from nmsim.errors import ContainerError, NmsimError, RowError, SpecError
from nmsim.format import sparse_format
from nmsim.pattern import Pattern

SPACE = {
    "axes": {
        "core": ["flexible-8x16", "dense", "edge-npu-8x16"],
        "pattern": ["dense", "2:4", "8:16", "3:8"],
        "encoding": ["bitmask", "combinatorial"],
        "packing": ["bitstream", "byte"],
        "sparse_operand": ["weights", "activations"],
        "dtype": ["bf16", "int8"],
        "tokens": [1, 40],
        "array_depth": [8, 16],
        "clock_hz": [1e9, 1.83e9],
        "dram_bytes_per_cycle": [100.5, 2000],
        "accumulator_bytes": [64, 131072],
        "column_skip": [False, True],
        "selector_placement": ["producer", "consumer"],
        "selector_elements_per_cycle": [0, 64],
    },
    "workload": {"shapes": [[100, 72], [256, 512]]},
}
SMALL = {
    "core": {"base": "flexible-8x16"},
    "axes": {
        "pattern": ["dense", "2:4", "8:16"],
        "tokens": [1, 64],
        "array_depth": [8, 16],
        "l2_bytes": [10**6, 10**7],
    },
    "workload": {"model": "llama-3.1-8b", "layers": ["q", "down"]},
}


@pytest.fixture(scope="module")
def found():
    return hwmodels.sweep(SPACE, chunk_points=20_000)


def by_hand(row):
    """The core, the case and the second pattern of a row."""
    core = load_core(row["core"])
    swept = {name: row[name] for name in SPACE["axes"] if name in SparseTensorCore.__dataclass_fields__}
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in swept.items()}
    core = SparseTensorCore(**{name: getattr(core, name) for name in core.__dataclass_fields__} | plain)
    shape = GemmShape(row["tokens"], row["N"], row["K"])
    if row["pattern"] == "dense":
        return core, Case(shape, dtype=row["dtype"])
    stored = sparse_format(row["pattern"], encoding=row["encoding"], packing=row["packing"])
    return core, Case(shape, stored, dtype=row["dtype"], sparse_operand=row["sparse_operand"])


def test_rows_are_those_of_the_space_in_order(found):
    space = load_space(SPACE)
    assert len(found) == space.points == 3 * (1 + 3 * 8) * 2**10
    stored = itertools.islice(zip(found["pattern"], found["encoding"], strict=True), len(space.stored))
    assert list(stored) == [(one.cells["pattern"], one.cells["encoding"]) for one in space.stored]
    assert found["core"].iloc[0] == "flexible-8x16"
    assert found["core"].iloc[-1] == "edge-npu-8x16"
    assert not found[[*SPACE["axes"], "layer"]].duplicated().any()


def test_rows_say_what_the_point_of_their_case_says(found):
    for _, row in found.sample(400, random_state=1).iterrows():
        problem = ""
        try:
            core, case = by_hand(row)
            one = point(core, case)
        except NmsimError as error:
            problem = str(error)
        if problem:
            assert row["refused"] == problem
            assert np.isnan(row["cycles"])
            continue
        answer = Cycles(*closed_form(np.array([one]))[0])
        if np.isnan(answer.cycles):
            assert row["refused"] == evaluate.NO_TILE
            assert np.isnan(row[list(Cycles._fields[2:])].astype(float)).all()
            assert row["limit"] == ""
            continue
        assert row["refused"] == ""
        assert row["limit"] == LIMITS[int(answer.limit)]
        for name in Cycles._fields:
            assert name == "limit" or row[name] == getattr(answer, name), name
        dense = closed_form(np.array([point(core, Case(case.shape, dtype=case.dtype))]))[0, 0]
        assert row["execution"] == execution(core, case)
        assert row["time_s"] == answer.cycles / core.clock_hz
        assert row["dense_cycles"] == dense
        assert row["speedup_vs_dense"] == dense / answer.cycles
        peak = answer.cycles * core.macs_per_cycle({"bf16": 16, "int8": 8}[case.dtype])
        assert row["peak_macs"] == peak
        assert row["utilisation"] == pytest.approx(answer.effectual_macs / peak)
        assert 0 < row["utilisation"] <= 1


def test_every_kind_of_refusal_is_met(found):
    reasons = " | ".join(found["refused"].cat.categories)
    assert "dense decodes bitmask" in reasons
    assert "prunes on loading, but has no selector" in reasons
    assert evaluate.NO_TILE in reasons
    live = found[found["refused"] == ""]
    assert set(live["execution"]) == {"dense", "native", "expanded"}
    assert live["cycles"].notna().all()
    assert (
        found.loc[found["refused"] != "", ["cycles", "time_s", "macs", "speedup_vs_dense"]]
        .isna()
        .all(axis=None)
    )


def test_metadata_are_those_of_the_code(found):
    live = found[(found["refused"] == "") & (found["selector_placement"] == "producer")]
    bits = live.groupby(["pattern", "encoding", "packing"], observed=True)["metadata_bits_per_elem"].agg(set)
    assert bits["8:16", "combinatorial", "bitstream"] == {14 / 16}
    assert bits["8:16", "combinatorial", "byte"] == {1.0}
    assert bits["2:4", "bitmask", "byte"] == {2.0}
    assert bits["dense", "none", "none"] == {0.0}
    loading = found[(found["selector_placement"] == "consumer") & (found["sparse_operand"] == "activations")]
    assert set(loading["metadata_bits_per_elem"].dropna()) == {0.0}


def test_dual_sided_cores_take_a_second_pattern():
    document = {
        "axes": {
            "core": ["dual-sided-8x16", "flexible-8x16"],
            "pattern": ["8:16"],
            "other_pattern": ["dense", "8:16"],
        },
        "workload": {"shapes": [[4096, 4096]]},
    }
    found = hwmodels.sweep(document)
    assert found["other_pattern"].tolist() == ["dense", "8:16"] * 2
    assert [bool(text) for text in found["refused"]] == [False, False, False, True]
    case = Case(GemmShape(1, 4096, 4096), "8:16")
    by_hand = closed_form(np.array([point(load_core("dual-sided-8x16"), case, Pattern(8, 16))]))[0]
    assert found["dram_read_bytes"][1] == Cycles(*by_hand).dram_read_bytes


def test_a_model_is_its_layers_added_up():
    workload = {"model": ["llama-3.1-8b", "gemma-3-4b"]}
    rows = hwmodels.sweep({**SMALL, "workload": workload})
    whole = hwmodels.sweep({**SMALL, "workload": {**workload, "per": "model"}})
    keys = ["model", "pattern", "tokens", "array_depth", "l2_bytes"]
    sums = ("cycles", "time_s", "dense_cycles", "dram_read_bytes", "macs", "effectual_macs", "peak_macs")
    assert len(whole) == len(whole.drop_duplicates(keys)) == len(rows) // 7
    for key, layers in rows.groupby(keys, observed=True):
        one = whole[(whole[keys].astype(str) == [str(value) for value in key]).all(axis=1)].iloc[0]
        for name in sums:
            assert one[name] == pytest.approx((layers[name] * layers["count"]).sum())
        assert one["speedup_vs_dense"] == pytest.approx(one["dense_cycles"] / one["cycles"])
        by_shape = (layers["cycles"] * layers["count"]).groupby([layers["N"], layers["K"]]).transform("sum")
        assert one["limit"] == layers["limit"][by_shape.idxmax()]
    assert "layer" not in whole
    assert "tile_rows" not in whole


def test_a_step_adds_columns(monkeypatch):
    def rows_and_node(block):
        nodes = np.array([design.core.node_nm if design.core else np.nan for design in block.designs])
        return np.stack([block.points[:, 0], nodes[block.places]])

    step = evaluate.Step(("a_rows", "node_nm_of_core"), False, rows_and_node)
    monkeypatch.setattr(evaluate, "STEPS", (*evaluate.STEPS, step))
    evaluate.evaluator.cache_clear()
    try:
        document = {
            **SMALL,
            "axes": {"pattern": ["2:4"], "node_nm": [5, 7]},
            "workload": {"model": "llama-3.1-8b", "per": "model"},
        }
        found = hwmodels.sweep(document)
        assert found["node_nm_of_core"].tolist() == [5, 7]
        assert found["a_rows"].tolist() == [4096, 4096]
    finally:
        evaluate.evaluator.cache_clear()


def test_energy_and_area_are_those_of_a_single_case():
    document = {
        "axes": {"core": ["flexible-8x16", "dual-sided-8x16"], "pattern": ["dense", "8:16"], "tokens": [1, 300],
                 "decoder_elements_per_cycle": [32, 256], "other_pattern": ["dense", "8:16"]},
        "workload": {"shapes": [[512, 1024]]},
    }  # fmt: skip
    found = hwmodels.sweep(document)
    seen = 0
    for row in found[found["refused"] == ""].itertuples():
        core = dataclasses.replace(
            load_core(row.core), decoder_elements_per_cycle=row.decoder_elements_per_cycle
        )
        pattern = None if row.pattern == "dense" else row.pattern
        other = None if row.other_pattern == "dense" else Pattern.parse(row.other_pattern)
        case = Case(GemmShape(row.tokens, 512, 1024), pattern)
        used, size = energy(case, core, other).total, area(core).total
        assert row.energy_joules == pytest.approx(used.nominal, rel=1e-9, abs=0)
        assert row.energy_joules_low == pytest.approx(used.low, rel=1e-9, abs=0)
        assert row.area_um2_high == pytest.approx(size.high, rel=1e-9, abs=0)
        seen += other is not None
    assert seen == 4


def test_a_node_without_known_costs_has_none():
    # Nor are delays of its gates known: the latency of the decoder is given.
    axes = {"pattern": ["8:16"], "node_nm": [2, 5], "decoder_latency_cycles": [2]}
    found = hwmodels.sweep({**SMALL, "axes": axes})
    assert found["cycles"].notna().all()
    unknown = [node == 2 for node in found["node_nm"]]
    assert found["energy_joules"].isna().tolist() == found["area_um2"].isna().tolist() == unknown


def test_a_value_that_no_point_takes_is_refused_at_once():
    def with_axes(core="flexible-8x16", **values):
        return {**SMALL, "core": {"base": core}, "axes": {"pattern": ["2:4"], **values}}

    for document, text in (
        (with_axes(encoding=["bitmask", "joint"]), "axes: encoding: 'joint': no point takes it: encoding 'joint': "),
        (with_axes(dtype=["bf16", "fp32"]), "axes: dtype: 'fp32': no point takes it"),
        (with_axes(other_pattern=["dense", "2:4"]), "axes: other_pattern: '2:4': no point takes it: second"),
        (with_axes(array_depth=[8, 8.5]), "axes.array_depth[1]=8.5: expected a whole number of macs"),
        (with_axes(select_network=["mux", "wire"]), "axes.select_network[1]='wire': expected one of onehot, ordered_mux"),
        (with_axes(dual_sided=["yes"]), "axes.dual_sided[0]='yes': expected true or false"),
        (with_axes("dense", encoding=["index"]), "axes: no point of the space exists: encoding 'index': dense"),
    ):  # fmt: skip
        with pytest.raises(SpecError) as caught:
            hwmodels.sweep(document)
        assert text in str(caught.value)


def test_points_without_a_use_for_a_value_stay_with_their_reason():
    document = {
        "workload": SMALL["workload"],
        "axes": {"core": ["dense", "flexible-8x16"], "pattern": ["2:4"], "encoding": ["bitmask", "index"]},
    }
    found = hwmodels.sweep(document)
    assert [bool(text) for text in found["refused"]] == ([False, True] * 2 + [False, False] * 2)


def test_chunks_leave_no_trace():
    whole = hwmodels.sweep(SMALL)
    for chunk_points in (1, 7, 24):
        pd.testing.assert_frame_equal(hwmodels.sweep(SMALL, chunk_points=chunk_points), whole)


def test_blocks_leave_no_trace(monkeypatch):
    whole = hwmodels.sweep(SMALL)
    monkeypatch.setattr(evaluate, "BLOCK_POINTS", 5)
    pd.testing.assert_frame_equal(hwmodels.sweep(SMALL), whole)


def test_the_closed_form_is_given_arrays(monkeypatch):
    asked = []

    def counted(points):
        asked.append(len(points))
        return closed_form(points)

    monkeypatch.setattr(evaluate, "closed_form", counted)
    found = hwmodels.sweep({**SMALL, "axes": SMALL["axes"] | {"fragment_rows": list(range(1, 501))}})
    assert len(asked) == 2 * -(-len(found) // evaluate.BLOCK_POINTS)
    # A dense product is evaluated once for the three ways to store that share it.
    assert sum(asked) <= len(found) * 4 / 3 + len(asked)


def test_a_sample_is_rows_of_the_product():
    whole = hwmodels.sweep(SMALL)
    space = load_space({**SMALL, "sample": {"points": 17, "seed": 3}})
    rows = whole.iloc[space.indices(0, 17)].reset_index(drop=True)
    pd.testing.assert_frame_equal(hwmodels.sweep(space, chunk_points=5), rows)


def test_a_design_that_another_thread_has_added_meanwhile_is_not_added_twice():
    designs = Designs(load_space(SMALL))
    digits = np.zeros((len(designs.space.lengths), 1), np.int64)

    class Late:
        """A lock that is free only when another thread has done the same work."""

        def __enter__(self):
            designs._lock = threading.Lock()
            designs.places(digits)

        def __exit__(self, *error):
            pass

    designs._lock = Late()
    assert designs.places(digits).tolist() == [0]
    assert len(designs.found) == len(designs.rows) == 1


def test_threads_give_the_same():
    whole = hwmodels.sweep(SMALL)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        pd.testing.assert_frame_equal(hwmodels.sweep(SMALL, executor=threads, chunk_points=5), whole)


def test_a_cluster_gives_the_same(tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra `distributed`")
    whole = hwmodels.sweep(SMALL)
    cluster = distributed.LocalCluster(
        n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path
    )
    with cluster, distributed.Client(cluster) as client:
        executor = client.get_executor()
        summary = hwmodels.sweep(SMALL, output=tmp_path / "out.parquet", executor=executor, chunk_points=5)
        asked = client.run(lambda: hwmodels.sweeps.evaluate.evaluator.cache_info().misses)
    assert len(asked) == 2
    assert sum(asked.values()) > 0, "no worker has evaluated anything"
    assert summary.points == len(whole)
    same(pd.read_parquet(tmp_path / "out.parquet"), whole)


def same(found, expected):
    """Equal, but for which texts are categories."""

    def plain(table):
        return table.astype(dict.fromkeys(table.select_dtypes("category").columns, str))

    pd.testing.assert_frame_equal(plain(found), plain(expected), check_dtype=False)


def test_a_file_holds_the_same(tmp_path):
    whole = hwmodels.sweep(SMALL)
    told = []
    summary = hwmodels.sweep(
        SMALL, output=tmp_path / "a.parquet", chunk_points=10, progress=lambda *at: told.append(at)
    )
    assert (summary.points, summary.evaluated_points, summary.refused) == (48, 48, {})
    assert told == [(0, 48), (10, 48), (20, 48), (30, 48), (40, 48), (48, 48)]
    assert summary.points_per_s > 0
    same(pd.read_parquet(tmp_path / "a.parquet"), whole)
    hwmodels.sweep(SMALL, output=tmp_path / "a.csv", chunk_points=10)
    same(pd.read_csv(tmp_path / "a.csv", keep_default_na=False), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_highlights_are_those_of_the_whole_table(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(pareto, "BATCH_ROWS", 7)
    whole = hwmodels.sweep(SPACE)
    whole = whole[whole["core"] == "edge-npu-8x16"].sample(300, random_state=0).reset_index(drop=True)
    file = tmp_path / f"a{suffix}"
    whole.to_csv(file, index=False, na_rep="nan") if suffix == ".csv" else whole.to_parquet(
        file, row_group_size=11
    )
    costs = ["time_s", "dram_read_bytes"]
    for gains in ([], ["utilisation"]):
        found = pareto.highlights(file, costs, gains, top=3)
        front = hwmodels.pareto_front(whole, minimise=costs, maximise=gains, within=["layer", "tokens"])
        assert 4 <= front.sum() < len(whole) / 2
        same(found.front[[*costs, "layer"]], whole.loc[front, [*costs, "layer"]].reset_index(drop=True))
    assert found.best["speedup_vs_dense"].tolist() == whole["speedup_vs_dense"].nlargest(3).tolist()
    with pytest.raises(RowError, match="'time': no such column"):
        pareto.highlights(file, ["time"])
    whole[["core", "cycles"]].to_csv(tmp_path / "b.csv")
    with pytest.raises(ContainerError, match="expected a file that a sweep wrote"):
        pareto.highlights(tmp_path / "b.csv", costs)


def test_a_summary_counts_refusals(tmp_path, found):
    summary = hwmodels.sweep(SPACE, output=tmp_path / "a.parquet", chunk_points=50_000)
    expected = found.loc[found["refused"] != "", "refused"].astype(str).value_counts().to_dict()
    assert summary.refused == expected


def stopped_after(chunks, monkeypatch):
    """Evaluate so many chunks, then fail."""
    done = itertools.count()

    def failing(*arguments):
        if next(done) == chunks:
            raise KeyboardInterrupt
        return evaluate_chunk(*arguments)

    monkeypatch.setattr("hwmodels.sweeps.run.evaluate_chunk", failing)


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    output = tmp_path / "a.parquet"
    with monkeypatch.context() as patch:
        stopped_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            hwmodels.sweep(SMALL, output=output, chunk_points=10)
    assert not output.exists()
    summary = hwmodels.sweep(SMALL, output=output, chunk_points=10)
    assert (summary.points, summary.evaluated_points) == (48, 18)
    same(pd.read_parquet(output), hwmodels.sweep(SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("other", "chunk_points", "text"),
    [({**SMALL, "core": {"base": "dense"}}, 10, "space '"), (SMALL, 11, "chunk_points 10, now 11")],
)
def test_parts_of_another_sweep_are_refused(tmp_path, monkeypatch, other, chunk_points, text):
    output = tmp_path / "a.parquet"
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            hwmodels.sweep(SMALL, output=output, chunk_points=10)
    with pytest.raises(ContainerError, match="a.parquet.parts: holds parts of another sweep") as caught:
        hwmodels.sweep(other, output=output, chunk_points=chunk_points)
    assert text in str(caught.value)
    summary = hwmodels.sweep(other, output=output, chunk_points=chunk_points, resume=False)
    assert summary.evaluated_points == summary.points


def test_parts_of_another_version_are_refused(tmp_path, monkeypatch):
    output = tmp_path / "a.parquet"
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            hwmodels.sweep(SMALL, output=output, chunk_points=10)
    manifest = tmp_path / "a.parquet.parts" / "manifest.json"
    about = json.loads(manifest.read_text())
    about["versions"]["nmsim"] = "0.0.1"
    manifest.write_text(json.dumps(about))
    with pytest.raises(ContainerError, match="versions"):
        hwmodels.sweep(SMALL, output=output, chunk_points=10)
    manifest.write_text("[")
    with pytest.raises(ContainerError, match="and no manifest.json of a sweep, expected that name free"):
        hwmodels.sweep(SMALL, output=output, chunk_points=10)


def test_a_damaged_part_is_named(tmp_path, monkeypatch):
    output = tmp_path / "a.parquet"
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            hwmodels.sweep(SMALL, output=output, chunk_points=10)
    part = tmp_path / "a.parquet.parts" / "part-000001.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(ContainerError, match="part-000001.arrow: is damaged"):
        hwmodels.sweep(SMALL, output=output, chunk_points=10)
    part.unlink()
    assert hwmodels.sweep(SMALL, output=output, chunk_points=10).evaluated_points == 10


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("removed_files", [0, 2, 6])
def test_a_run_killed_when_all_was_written_is_done(tmp_path, monkeypatch, suffix, removed_files):
    output = tmp_path / f"a{suffix}"
    document = {**SMALL, "axes": SMALL["axes"] | {"accumulator_bytes": [1, 131072]}}
    expected = hwmodels.sweep(document, output=tmp_path / f"b{suffix}", chunk_points=20)
    assert expected.refused

    def killed(parts):
        files = [*sorted(parts.folder.glob("part-*")), parts.folder / "manifest.json"]
        for file in files[:removed_files]:
            file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            hwmodels.sweep(document, output=output, chunk_points=20)
    assert kept_points(output) == (96, 96)
    whole, told = output.read_bytes(), []
    summary = hwmodels.sweep(document, output=output, chunk_points=20, progress=lambda *at: told.append(at))
    assert (summary.points, summary.evaluated_points, summary.points_per_s) == (96, 0, 0)
    assert (summary.refused, told) == (expected.refused, [(96, 96)])
    assert output.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, f"b{suffix}"]
    with pytest.raises(ContainerError, match="exists already"):
        hwmodels.sweep(document, output=output, chunk_points=20)


@pytest.mark.parametrize("doctored", ["file", "manifest", "space"])
def test_a_file_that_parts_did_not_become_is_kept(tmp_path, monkeypatch, doctored):
    output, document = tmp_path / "a.csv", SMALL
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "remove", lambda parts: None)
        hwmodels.sweep(SMALL, output=output, chunk_points=10)
    merged = tmp_path / "a.csv.parts" / "merged.json"
    if doctored == "file":
        output.write_text("mine")
    elif doctored == "manifest":
        merged.write_text(merged.read_text()[:-9])
    else:
        document = {**SMALL, "costs": False}
    before = output.read_bytes()
    with pytest.raises(ContainerError, match="exists already"):
        hwmodels.sweep(document, output=output, chunk_points=10)
    assert output.read_bytes() == before
    assert len(list(merged.parent.glob("part-*"))) == 5


def test_a_folder_that_takes_no_parts_is_named(tmp_path, monkeypatch):
    whole = pathlib.Path.mkdir

    def refused(path, *arguments, **options):
        if path.name.endswith(".parts"):
            raise PermissionError(13, "Permission denied")
        whole(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "mkdir", refused)
    with pytest.raises(ContainerError) as caught:
        hwmodels.sweep(SMALL, output=tmp_path / "a.csv")
    assert str(caught.value) == (
        f"{tmp_path}/a.csv: cannot be written: no folder {tmp_path}/a.csv.parts can be made (Permission denied)"
    )


def test_points_that_are_kept_are_counted(tmp_path, monkeypatch):
    output = tmp_path / "a.csv"
    assert kept_points(output) is None
    with monkeypatch.context() as patch:
        stopped_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            hwmodels.sweep(SMALL, output=output, chunk_points=10)
    assert kept_points(output) == (30, 48)
    (tmp_path / "a.csv.parts" / "part-000004.arrow").touch()
    assert kept_points(output) == (38, 48)
    (tmp_path / "a.csv.parts" / "manifest.json").write_text("[")
    assert kept_points(output) is None


def test_nothing_is_replaced_unasked(tmp_path):
    output = tmp_path / "a.parquet"
    output.write_text("mine")
    with pytest.raises(ContainerError, match="exists already"):
        hwmodels.sweep(SMALL, output=output)
    assert output.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [output]
    hwmodels.sweep(SMALL, output=output, force=True)
    assert len(pd.read_parquet(output)) == 48


def test_an_error_far_away_comes_back():
    class Failing(concurrent.futures.Executor):
        def submit(self, *arguments):
            future = concurrent.futures.Future()
            future.set_exception(RuntimeError("worker lost"))
            return future

    with pytest.raises(RuntimeError, match="worker lost"):
        hwmodels.sweep(SMALL, executor=Failing(), chunk_points=4)


def test_few_chunks_are_under_way_at_a_time():
    class Counting(concurrent.futures.Executor):
        asked, open_, most = 0, 0, 0

        def submit(self, function, *arguments):
            self.asked, self.open_ = self.asked + 1, self.open_ + 1
            self.most = max(self.most, self.open_)
            future = concurrent.futures.Future()
            future.set_result(function(*arguments))
            result = future.result

            def told(timeout=None):
                self.open_ -= 1
                return result(timeout)

            future.result = told
            return future

    counting = Counting()
    hwmodels.sweep(SMALL, executor=counting, chunk_points=4, in_flight=3)
    assert (counting.asked, counting.most, counting.open_) == (12, 3, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"output": "a.xls"}, "output 'a.xls': expected a name that ends in .parquet or .csv"),
        ({"chunk_points": 0}, "chunk_points=0: expected a positive int"),
        ({"in_flight": True}, "in_flight=True: expected a positive int"),
        ({"executor": 3}, "executor=3: expected a concurrent.futures.Executor"),
        ({"output": 3}, "output=3 (type int): expected the name of a file"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(SpecError) as caught:
        hwmodels.sweep(SMALL, **options)
    assert text in str(caught.value)


def test_too_many_combinations_are_refused(monkeypatch):
    monkeypatch.setattr("hwmodels.sweeps.evaluate.MAX_DESIGNS", 5)
    evaluate.evaluator.cache_clear()
    with pytest.raises(SpecError, match="axes: 6 combinations of cores, value types and ways to store"):
        hwmodels.sweep({**SMALL, "axes": {"pattern": ["dense", "2:4", "8:16"], "array_depth": [8, 16]}})
    evaluate.evaluator.cache_clear()


def test_a_pattern_without_codes_in_an_encoding_is_a_point_that_is_refused():
    axes = {"core": ["flexible-8x16"], "pattern": ["8:16", "3:6"], "encoding": ["tiled", "combinatorial"]}
    found = hwmodels.sweep({"axes": axes, "workload": {"shapes": [[4096, 4096]]}})
    refused = found[found["refused"] != ""]
    assert refused[["pattern", "encoding"]].astype(str).to_numpy().tolist() == [["3:6", "tiled"]]
    assert "power of two" in refused["refused"].iloc[0]
    assert found["cycles"].notna().sum() == 3

"""Quality beside cost on a checkpoint: sums over layers, bits as packed, speedups as predicted, dumps, accuracies, figure."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.online.mitigations import CRITERIA, MITIGATIONS, OF_WEIGHTS, Settings
from hwmodels.online.pruning import exposed_epilogue, online_pruning
from hwmodels.plots import LIGHT, quality_cost
from hwmodels.plots.fronts import ALIKE, WayMarks
from hwmodels.plots.style import MANY_MARKERS
from hwmodels.tensorcore.cycles import Cycles, closed_form
from hwmodels.tensorcore.point import point
from nmsim import Pattern, compress, criteria, load_file, save_file
from nmsim.case import Case, GemmShape
from nmsim.energy import energy
from nmsim.errors import ContainerError, NmsimError, RowError
from nmsim.files.selection import Selection
from nmsim.mask import prune
from nmsim.mitigation import recipe as registry
from nmsim.mitigation import split
from nmsim.quality import Way, cross, parse_mitigation, parse_rounding
from validate.quality.activation_dump import KINDS, Origin, Recorded, Synthetic, open_dump
from validate.quality.measure import (
    ALL,
    KEYS,
    QUALITY_COLUMNS,
    SUMS,
    Target,
    measure_quality,
    model_on_core,
    open_dense,
    sum_layers,
)
from validate.study.example_checkpoint import TINY, write_example

SOURCE = Synthetic("llm-like", 64, 64)
LAYER = "model.layers.0.mlp.up_proj.weight"
MODULE = "model.layers.0.mlp.up_proj"


def measure(path, ways, source=SOURCE, **options):
    target = options.pop(
        "target", Target(hwmodels.load_machine("h200"), hwmodels.load_core("flexible-8x16"), "bitmask")
    )
    with open_dense(path) as checkpoint:
        return measure_quality(checkpoint, source, ways=ways, target=target, **options)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_example(tmp_path_factory.mktemp("quality") / "tiny.safetensors", shape=TINY)


@pytest.fixture(scope="module")
def ways():
    of_x, _ = cross(
        "activations",
        ["2:4", "8:16"],
        ["magnitude", "clact"],
        ["none", "var", "dpts_median", "r_sparse=8", "outliers"],
    )
    of_w, _ = cross(
        "weights",
        ["2:4", "8:16"],
        ["magnitude", "channel_vector"],
        ["none", "outliers", "outliers_unstructured=8:256", "salient_columns=8", "scale_shift"],
    )
    return [*of_x, *of_w]


@pytest.fixture(scope="module")
def run(path, ways):
    return measure(path, ways)


def put(array, place, value):
    found = array.copy()
    found[place] = value
    return found


def only(table, **columns):
    for name, value in columns.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def test_a_row_a_layer_and_way_and_one_for_all(run, ways):
    assert tuple(run.table.columns) == QUALITY_COLUMNS
    assert len(run.table) == 8 * len(ways)
    assert run.table["layer"].nunique() == 8
    assert len(run.left_out) == 4
    assert run.left_out["model.norm.weight"] == "norm: has 1 dimensions"


def test_sums_are_added_and_shares_are_made_of_sums(run):
    for key, some in run.table.groupby(list(KEYS)):
        layers, (together,) = some[some["layer"] != ALL], some[some["layer"] == ALL].to_dict("records")
        for name in SUMS:
            expected = layers[name].sum(min_count=1)
            assert together[name] == pytest.approx(expected, nan_ok=True), (key, name)
        assert together["energy_kept_share"] == pytest.approx(
            layers["energy_kept"].sum() / layers["energy"].sum()
        )
        error = layers["output_error"].sum() / layers["output_energy"].sum()
        assert together["relative_output_error"] == pytest.approx(error)
        cycles = [layers[f"core_decode_{name}"].sum() for name in ("dense_cycles", "cycles")]
        if key[2] != "unstructured":
            assert together["core_decode_speedup_vs_dense"] == pytest.approx(cycles[0] / cycles[1])
        low = (layers["predicted_decode_dense_time_s"] / layers["predicted_decode_speedup_low"]).sum(
            min_count=1
        )
        expected = layers["predicted_decode_dense_time_s"].sum() / low
        assert together["predicted_decode_speedup_low"] == pytest.approx(expected, nan_ok=True)


def test_a_range_that_one_layer_has_not_is_not_that_of_all(run):
    layers = run.table[run.table["layer"] != ALL].copy()
    layers.loc[layers["layer"] == MODULE, "predicted_decode_speedup_low"] = math.nan
    together = sum_layers(layers)
    assert together["predicted_decode_speedup_low"].isna().all()
    assert (
        together.loc[together["criterion"] != "unstructured", "predicted_decode_speedup_high"].notna().all()
    )


def test_energy_kept_of_weights_is_that_of_the_bits_road(path, run):
    weight = load_file(path)[LAYER]
    expected = energy(weight, prune(weight, "8:16"))
    row = only(
        run.table, layer=MODULE, operand="weights", pattern="8:16", criterion="magnitude", mitigation="none"
    )
    assert row["energy_kept_share"] == pytest.approx(expected.share_kept)


@pytest.mark.parametrize("pattern", ["2:4", "8:16"])
def test_bits_are_those_of_a_packed_tensor(path, run, pattern):
    weight = load_file(path)[LAYER]
    foot = compress(weight, f"{pattern}/bitmask").footprint
    row = only(
        run.table, layer=MODULE, operand="weights", pattern=pattern, criterion="magnitude", mitigation="none"
    )
    assert row["metadata_bits"] == 8 * foot.metadata_bytes
    assert row["stored_bits"] == 8 * foot.total_bytes
    assert row["stored_bits_per_elem"] == 8 * foot.total_bytes / weight.size


def test_bits_of_outliers_and_columns_stand_beside_those_of_nm(run):
    plain, outliers, loose, columns = (
        only(
            run.table, layer=MODULE, operand="weights", pattern="2:4", criterion="magnitude", mitigation=name
        )
        for name in ("none", "outliers", "outliers_unstructured=8:256", "salient_columns=8")
    )
    assert loose["stored_bits"] - plain["stored_bits"] == 96 * 2 * (16 + 6)  # two of 64, each with its index
    assert outliers["metadata_bits"] == columns["metadata_bits"] == plain["metadata_bits"]
    assert outliers["stored_bits"] - plain["stored_bits"] == 96 * (
        4 * 16 + 28
    )  # a window of 256 a row of 64: 28-bit code
    assert columns["stored_bits"] - plain["stored_bits"] == 8 * (
        96 * 16 + 6
    )  # six bits name one of 64 columns


def test_rounded_values_are_a_way_of_their_own(path):
    """Bits of the values, a scale per 32 of 64 elements, and outliers of the same width."""
    plain = Way("weights", Pattern(2, 4))
    beside = plain._replace(mitigation=parse_mitigation("outliers_unstructured=8:256"))
    ways = [plain, *(way._replace(values=parse_rounding("int4/32/before")) for way in (plain, beside))]
    table = measure(path, ways).table
    whole, rounded = (
        only(table, layer=MODULE, mitigation="none", values=text) for text in ("", "int4/32/before")
    )
    assert whole["relative_output_error"] < rounded["relative_output_error"]
    assert whole["stored_bits"] == 96 * (32 * 16 + 64)
    assert rounded["stored_bits"] == 96 * (32 * 4 + 2 * 16 + 64)
    outliers = only(table, layer=MODULE, mitigation="outliers_unstructured=8:256")
    assert outliers["stored_bits"] - rounded["stored_bits"] == 96 * 2 * (4 + 6)


def test_speedups_are_those_of_the_models(run):
    shape, core = GemmShape(1, 96, 64), hwmodels.load_core("flexible-8x16")
    case = Case(shape, "8:16/bitmask", sparse_operand="activations")
    for mitigation, name in (("none", ""), ("var", "var"), ("r_sparse=8", "r_sparse")):
        row = only(
            run.table,
            layer=MODULE,
            operand="activations",
            pattern="8:16",
            criterion="magnitude",
            mitigation=mitigation,
        )
        settings = Settings(rank=8)
        expected = online_pruning(case, core, mitigation=name, settings=settings)
        assert row["core_decode_speedup_vs_dense"] == pytest.approx(expected.speedup_vs_dense)
        machine = hwmodels.predict(case, "h200")
        assert row["predicted_decode_speedup_vs_dense"] == pytest.approx(machine.predicted_speedup_vs_dense)
        assert row["predicted_decode_speedup_low"] == pytest.approx(machine.predicted_speedup_low)
        assert (row["hardware"], row["core"]) == ("h200", "flexible-8x16")
    plain = only(
        run.table, layer=MODULE, operand="weights", pattern="8:16", criterion="magnitude", mitigation="none"
    )
    case = dataclasses.replace(case, sparse_operand="weights", shape=GemmShape(4096, 96, 64))
    assert plain["core_prefill_speedup_vs_dense"] == pytest.approx(
        hwmodels.predict_core(case, core).predicted_speedup_vs_dense
    )


@pytest.mark.parametrize(("phase", "tokens"), [("decode", 1), ("prefill", 4096)])
def test_what_stands_beside_sparse_weights_costs_cycles(run, phase, tokens):
    """Of a layer of 96 outputs and 64 inputs, in bf16: lanes that the product hides, parameters from DRAM, side products."""
    core = hwmodels.load_core("flexible-8x16")
    lanes = 128 * core.cores
    named = {"layer": MODULE, "operand": "weights", "pattern": "8:16", "criterion": "magnitude"}
    plain, outliers, columns, scaled = (
        only(run.table, mitigation=name, **named)[f"core_{phase}_cycles"]
        for name in ("none", "outliers", "salient_columns=8", "scale_shift")
    )
    case = Case(GemmShape(tokens, 96, 64), "8:16/bitmask")
    (product,) = (Cycles(*row) for row in closed_form(np.array([point(core, case)])).tolist())
    assert plain == product.cycles

    def beside(lane_ops, read_bytes):
        exposed = exposed_epilogue(math.ceil(lane_ops / lanes), product, core.accumulator_buffers)
        return exposed + math.ceil(read_bytes / core.dram_bytes_per_cycle)

    assert outliers - plain == beside(tokens * 96 * 4, 96 * (4 * 2 + 3.5))
    assert scaled - plain == beside(2 * tokens * 96, 2 * 96 * 2)
    side = hwmodels.predict_core(Case(GemmShape(tokens, 96, 8)), core).cycles
    assert columns - plain == side + beside(0, 6)


def test_references_have_neither_bits_nor_speedups_but_dense_has(run):
    loose = run.table[run.table["criterion"] == "unstructured"]
    columns = [
        "stored_bits",
        "core_decode_speedup_vs_dense",
        "predicted_decode_speedup_vs_dense",
        "mask_entropy_bits",
    ]
    assert loose[columns].isna().all().all()
    dense = run.table[run.table["pattern"] == "dense"]
    assert (dense["stored_bits_per_elem"] == 16).all()
    assert (dense[["core_prefill_speedup_vs_dense", "predicted_prefill_speedup_vs_dense"]] == 1).all().all()
    assert (dense["relative_output_error"] == 0).all()


def test_a_mix_of_estimates_and_bounds_says_so(path):
    few, _ = cross("weights", ["4:8"], ["magnitude"], ["none"])
    table = measure(path, few).table
    kinds = set(table.loc[(table["layer"] != ALL) & (table["criterion"] == "magnitude"), "mask_entropy_kind"])
    assert kinds == {"miller_madow", "upper_bound"}
    assert only(table, layer=ALL, criterion="magnitude")["mask_entropy_kind"] == "mixed"


def test_every_name_of_the_registries_is_counted():
    assert all(callable(cost) for cost in (*CRITERIA.values(), *MITIGATIONS.values()))
    assert set(CRITERIA) == set(criteria.CRITERIA)
    assert set(MITIGATIONS) == set(registry.MITIGATIONS)
    assert tuple(name for name, kind in registry.MITIGATIONS.items() if kind.of_weights) == OF_WEIGHTS


def test_without_an_encoding_each_pattern_is_stored_as_the_machine_reads_it(path):
    few, _ = cross("weights", ["2:4", "8:16"], ["magnitude"], ["none"])
    h200, core = hwmodels.load_machine("h200"), hwmodels.load_core("nvidia-like-2x4")
    table = measure(path, few, target=Target(h200, None)).table
    pruned = table[table["pattern"] != "dense"]
    assert dict(zip(pruned["pattern"], pruned["encoding"], strict=True)) == {
        "2:4": "index",
        "8:16": "bitmask",
    }
    narrow, wide = (next(way for way in few if str(way.pattern) == text) for text in ("2:4", "8:16"))
    native = hwmodels.predict(Target(h200, None).case(narrow, "prefill", 4096, 4096), h200)
    assert native.execution == "native"
    assert Target(None, core).format(wide).short == "8:16/index"
    assert str(Target(h200, None, "combinatorial", "byte").format(narrow)) == "2:4/combinatorial/byte"


PRESETS = list(itertools.product([None, *hwmodels.machine_names()], [None, *hwmodels.core_names()]))[1:]


@pytest.mark.parametrize("operand", ["weights", "activations"])
def test_the_default_code_is_one_that_each_machine_and_core_takes(operand):
    """On every preset: a native unit is used if there is one, and no decoder gets a code that it does not read."""
    native = 0
    patterns = [Pattern.parse(text) for text in ("2:4", "4:8", "8:16", "16:32", "1:4")]
    for (machine, core), pattern in itertools.product(PRESETS, patterns):
        hardware = machine and hwmodels.load_machine(machine)
        design = core and hwmodels.load_core(core)
        way = Way(operand, pattern)
        target = Target(hardware, design)
        form = target.format(way)
        if hardware is not None:
            unit = [unit for unit in hardware.native if pattern == unit.pattern and operand in unit.operands]
            if unit and not unit[0].pairs and "bf16" in hardware.sparse_peak_flop_per_s:
                assert hardware.native_unit(form, operand=operand, dtype="bf16") is not None, (
                    machine,
                    core,
                    form.short,
                )
                native += 1
        if design is not None:
            on_core = target.core_format(way)
            assert on_core.encoding.name in design.encodings, (machine, core, on_core.short)
            if form.encoding.name in design.encodings:
                assert on_core == form
    assert native > 100


def test_machine_and_core_each_get_the_code_that_they_read(path):
    """The machine reads 2:4 as an index, the core only bitmasks: neither is predicted with the code of the other."""
    few, _ = cross("weights", ["2:4"], ["magnitude"], ["none"])
    h200, core = hwmodels.load_machine("h200"), hwmodels.load_core("dual-sided-8x16")
    row = only(measure(path, few, target=Target(h200, core)).table, layer=MODULE, criterion="magnitude")
    assert (row["encoding"], row["core_encoding"]) == ("index", "bitmask")
    shape = GemmShape(1, 96, 64)
    machine = hwmodels.predict(Case(shape, "2:4/index"), h200)
    assert row["predicted_decode_speedup_vs_dense"] == pytest.approx(machine.predicted_speedup_vs_dense)
    way = next(way for way in few if way.pattern and way.criterion == "magnitude")
    assert hwmodels.predict(Target(h200, core).case(way, "prefill", 4096, 4096), h200).execution == "native"
    on_core = hwmodels.predict_core(Case(shape, "2:4/bitmask"), core)
    assert row["core_decode_speedup_vs_dense"] == pytest.approx(on_core.predicted_speedup_vs_dense)


H200, CORE = hwmodels.load_machine("h200"), hwmodels.load_core("flexible-8x16")


@pytest.fixture(scope="module")
def three():
    of_x, _ = cross("activations", ["8:16"], ["magnitude"], ["none", "var"])
    return [*of_x, *cross("weights", ["8:16"], ["magnitude"], ["none"])[0]]


@pytest.fixture(scope="module")
def tables(path, three):
    """Costs of the checkpoint's own layers, and of those of a model."""
    models = None, hwmodels.load_model("llama-3.2-1b")
    return [measure(path, three, target=Target(H200, CORE, "bitmask", model=model)).table for model in models]


class TestCostsOfAnotherModel:
    def test_only_costs_change(self, tables):
        own, other = tables
        costs = [name for name in own if name.startswith(("predicted_", "core_decode", "core_prefill"))]
        same = own.columns.difference([*costs, "costs_of"])
        pd.testing.assert_frame_equal(own[same], other[same])
        assert (set(own["costs_of"]), set(other["costs_of"])) == ({"checkpoint"}, {"llama-3.2-1b"})
        assert other.loc[other["layer"] != ALL, costs].isna().all().all()

    @pytest.mark.parametrize(("phase", "tokens"), [("decode", 1), ("prefill", 4096)])
    def test_speedups_are_of_all_pruned_layers_together(self, tables, phase, tokens):
        """Product by product, as the table of cases has them, on both."""
        _, other = tables
        row = only(other, layer=ALL, operand="weights", criterion="magnitude")
        options = (
            {"decode_batches": [1]}
            if phase == "decode"
            else {"decode_batches": [], "prefill_lengths": [4096]}
        )
        table = hwmodels.cases("llama-3.2-1b", formats=["8:16/bitmask"], **options)
        assert (table["M"] == tokens).all()
        sums = {"machine": np.zeros(2), "core": np.zeros(2)}
        for one in table.itertuples():
            case = Case(GemmShape(one.M, one.N, one.K), "8:16/bitmask")
            machine, core = hwmodels.predict(case, H200), hwmodels.predict_core(case, CORE)
            sums["machine"] += one.count * np.array(
                [machine.predicted_dense_time_s, machine.predicted_time_s]
            )
            sums["core"] += one.count * np.array([core.cycles * core.predicted_speedup_vs_dense, core.cycles])
        for name, (dense, sparse) in sums.items():
            column = {
                "machine": f"predicted_{phase}_speedup_vs_dense",
                "core": f"core_{phase}_speedup_vs_dense",
            }[name]
            assert row[column] == pytest.approx(dense / sparse, rel=1e-6), name
        low, speedup, high = (row[f"predicted_{phase}_speedup_{end}"] for end in ("low", "vs_dense", "high"))
        assert low < speedup < high or math.isnan(low)

    def test_criterion_and_mitigation_cost_on_the_core(self, tables):
        _, other = tables
        plain, var = (
            only(other, layer=ALL, operand="activations", criterion="magnitude", mitigation=name)
            for name in ("none", "var")
        )
        assert var["core_prefill_cycles"] > plain["core_prefill_cycles"]
        assert var["predicted_prefill_time_s"] == plain["predicted_prefill_time_s"]

    def test_experts_have_the_tokens_that_reach_them(self):
        mixtral = hwmodels.load_model("mixtral-8x7b")
        target = Target(None, CORE, "bitmask", tokens_prefill=16, model=mixtral)
        way = Way("weights", Pattern(8, 16))
        cycles = 0.0
        for layer in mixtral.layers:
            if not layer.pruned:
                continue
            # 16 tokens, 2 of 8 experts each: (1 - 3/4 ** 16) of the experts are reached.
            reached = 8 * (1 - 0.75**16) if layer.experts else 1
            mean = 16 * 2 / reached if layer.experts else 16
            for tokens, share in ((math.floor(mean), 1 - mean % 1), (math.floor(mean) + 1, mean % 1)):
                if share:
                    case = Case(GemmShape(tokens, layer.N, layer.K), "8:16/bitmask")
                    places = layer.count / (layer.experts or 1)
                    cycles += places * reached * share * hwmodels.predict_core(case, CORE).cycles
        assert model_on_core(target, way, "prefill").time == pytest.approx(cycles, rel=1e-6)

    def test_what_cannot_be_predicted_is_refused_before_any_work(self, path, three):
        told = []
        target = Target(H200, CORE, "joint:4", model=hwmodels.load_model("llama-3.2-1b"))
        with pytest.raises(NmsimError, match="joint"):
            measure(path, three, target=target, progress=lambda *at: told.append(at))
        assert told == []


def test_an_empty_target_gives_quality_and_bits_alone(path):
    few, _ = cross("activations", ["2:4"], ["magnitude"], ["none"])
    table = measure(path, few, target=Target(None, None)).table
    assert table["core_decode_cycles"].isna().all()
    assert table["predicted_decode_time_s"].isna().all()
    assert only(table, layer=ALL, criterion="magnitude")["metadata_bits_per_elem"] == 1
    _, grid = quality_cost(table)
    assert [ax.get_xlabel() for ax in grid[0]] == ["stored bits of the operand [bits/element]"]


def test_a_target_that_cannot_be_predicted_is_refused_before_any_work(path):
    few, _ = cross("activations", ["2:4"], ["magnitude"], ["none"])
    told = []
    with pytest.raises(NmsimError, match="joint"):
        measure(
            path,
            few,
            target=Target(None, hwmodels.load_core("flexible-8x16"), "joint"),
            progress=lambda *at: told.append(at),
        )
    assert told == []
    with pytest.raises(RowError, match="dtype='fp3'"):
        Target(None, None, dtype="fp3")


def test_selection_and_progress(path):
    few, _ = cross("activations", ["2:4"], ["magnitude"], ["none"])
    told = []
    found = measure(
        path,
        few,
        selection=Selection(include=["*up_proj*", "*q_proj*"]),
        progress=lambda *at: told.append(at),
    )
    assert [name for name, _ in told] == ["model.layers.0.self_attn.q_proj.weight", LAYER]
    assert told[1][1] == pytest.approx(64 * 64 / (64 * 64 + 96 * 64))
    assert len(found.left_out) == 9


class TestDump:
    @pytest.fixture
    def few(self):
        return cross("activations", ["2:4"], ["magnitude"], ["none", "lpts"])[0]

    @pytest.fixture
    def tensors(self, path):
        rng = np.random.default_rng(0)
        names = [name for name in load_file(path) if "proj" in name]
        widths = {name: 96 if "down" in name else 64 for name in names}
        return {name: rng.normal(size=(20, widths[name])).astype(np.float32) for name in names}

    def run(self, path, few, tensors, tmp_path, **options):
        save_file(tensors, tmp_path / "dump.safetensors")
        with open_dump(tmp_path / "dump.safetensors", 8, 12) as dump:
            return measure(path, few, dump, **options)

    @pytest.mark.parametrize(
        "rename",
        [str, lambda name: name.removesuffix(".weight"), lambda name: name.replace(".weight", ".input")],
    )
    def test_three_names_and_a_batch(self, path, few, tensors, tmp_path, rename):
        expected = self.run(path, few, tensors, tmp_path).table
        other = {rename(name): x.reshape(4, 5, -1) for name, x in tensors.items()}
        pd.testing.assert_frame_equal(self.run(path, few, other, tmp_path).table, expected)
        row = only(expected, layer=MODULE, criterion="magnitude", mitigation="none")
        assert (row["activations"], row["tokens"]) == ("dump dump.safetensors", 12)
        x = tensors[LAYER][8:]
        assert row["energy_kept_share"] == pytest.approx(energy(x, prune(x, "2:4")).share_kept)

    def test_missing_layers(self, path, few, tensors, tmp_path):
        rest = {name: x for name, x in tensors.items() if "q_proj" not in name and "up" not in name}
        with pytest.raises(
            ContainerError,
            match=r"no activations of 2 of 7 layers: model.layers.0.self_attn.q_proj.weight, .*up_proj",
        ):
            self.run(path, few, rest, tmp_path)
        found = self.run(path, few, rest, tmp_path, allow_missing=True)
        assert found.left_out[LAYER] == "no activations"
        assert found.table["layer"].nunique() == 6
        with pytest.raises(ContainerError, match="no layer has activations"):
            self.run(path, few, {"other": tensors[LAYER]}, tmp_path, allow_missing=True)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda x: x[:, :32],
                r"up_proj.weight', data at byte \d+: shape \[20, 32\], expected \[tokens, 64\]",
            ),
            (
                lambda x: x[:19],
                r"19 tokens, expected at least 8 to calibrate \(--calibration-tokens\) and 12 others .*--eval-tokens",
            ),
            (lambda x: x.reshape(-1), r"shape \[1280\]"),
            (lambda x: x.astype(np.int32), "dtype I32, expected floats"),
            (
                lambda x: put(x, (13, 5), np.nan),
                r"up_proj.* token 13, feature 5 is nan, expected finite numbers",
            ),
            (lambda x: put(x, (13, 5), np.inf).reshape(4, 5, -1), "token 13, feature 5 is inf"),
            (lambda x: put(x, (2, 5), -1e30), r"token 2, feature 5 is -1e\+30, .* at most 2.3e\+18"),
            (lambda x: put(x.astype(np.float64), (2, 5), 1e300), r"token 2, feature 5 is 1e\+300"),
        ],
    )
    def test_wrong_tensors(self, path, few, tensors, tmp_path, change, message):
        with np.errstate(over="raise", invalid="raise"), pytest.raises(ContainerError, match=message):
            self.run(path, few, tensors | {LAYER: change(tensors[LAYER])}, tmp_path)

    def test_two_names_for_one_layer(self, path, few, tensors, tmp_path):
        twice = tensors | {LAYER.removesuffix(".weight"): tensors[LAYER]}
        with pytest.raises(ContainerError, match="are there, expected one of them"):
            self.run(path, few, twice, tmp_path)


class TestRecorded:
    ORIGIN = Origin("tiny", "0" * 16, "words", "1" * 16)

    def source(self, path, tokens=12):
        rng = np.random.default_rng(0)
        fit, x = (
            {
                name: rng.normal(size=(count, 96 if "down" in name else 64)).astype(np.float32)
                for name in load_file(path)
                if "proj" in name
            }
            for count in (8, tokens)
        )
        return Recorded(fit, x, self.ORIGIN)

    def test_rows_say_what_was_recorded_and_a_dump_of_it_gives_the_same(self, path, tmp_path):
        few, _ = cross("weights", ["2:4"], ["channel_vector"], ["none"])
        source = self.source(path)
        table = measure(path, few, source).table
        row = only(table, layer=MODULE, criterion="channel_vector")
        assert (row["activations"], row["calibration_tokens"], row["tokens"]) == ("tiny on words", 8, 12)
        assert tuple(row[name] for name in Origin._fields) == self.ORIGIN
        save_file(source.arrays(), tmp_path / "dump.safetensors", metadata=self.ORIGIN._asdict())
        with open_dump(tmp_path / "dump.safetensors", 8, 12) as dump:
            again = measure(path, few, dump).table
        pd.testing.assert_frame_equal(
            again.drop(columns="activations"), table.drop(columns="activations"), check_exact=True
        )

    def test_what_cannot_be_used(self, path):
        few, _ = cross("weights", ["2:4"], ["magnitude"], ["none"])
        good = self.source(path)
        bad = put(good._x[LAYER], (3, 5), np.nan)
        for x, message in (
            (bad, "token 3, feature 5 is nan"),
            (good._x[LAYER][:, :32], r"shape \[12, 32\], expected"),
        ):
            with pytest.raises(ContainerError, match=f"tiny on words: tokens of {LAYER}.*{message}"):
                measure(path, few, Recorded(good._fit, good._x | {LAYER: x}, self.ORIGIN))
        rest = {name: x for name, x in good._x.items() if name != LAYER}
        with pytest.raises(ContainerError, match="7 layers to calibrate and 6 to measure"):
            Recorded(good._fit, rest, self.ORIGIN)


class TestSynthetic:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_same_seed_draws_the_same_and_layers_differ(self, kind):
        tokens = Synthetic(kind, 16, 48, seed=3).tokens("a", 64)
        assert (tokens.fit.shape, tokens.x.shape, tokens.x.dtype) == ((16, 64), (48, 64), np.float32)
        assert np.array_equal(tokens.x, Synthetic(kind, 16, 48, seed=3).tokens("a", 64).x)
        assert not np.array_equal(tokens.x, Synthetic(kind, 16, 48, seed=3).tokens("b", 64).x)
        assert not np.array_equal(tokens.x, Synthetic(kind, 16, 48, seed=4).tokens("a", 64).x)

    def test_llm_like_has_large_channels_heavy_tails_and_a_mean(self):
        x = Synthetic("llm-like", 1, 4000).tokens("a", 512).x.astype(float)
        scale = x.std(axis=0)
        assert 1 <= (scale > 5 * np.median(scale)).sum() <= 6
        normal = (x - x.mean(axis=0)) / scale
        assert np.mean(normal**4) > 4  # 3 of a Gaussian
        assert abs(x.mean(axis=0)).mean() > 0.1

    @pytest.mark.parametrize("kind", ["gaussian", "laplace"])
    def test_the_others_have_mean_zero_and_variance_one(self, kind):
        x = Synthetic(kind, 1, 4000).tokens("a", 64).x
        assert (x.mean(), x.var()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.02))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(("cauchy", 1, 1), "'cauchy': expected one of gaussian"), (("laplace", 0, 1), "calibration_tokens=0"),
         (("laplace", 1, 1, -1), "seed=-1")],
    )  # fmt: skip
    def test_wrong_arguments(self, arguments, message):
        with pytest.raises(RowError, match=message):
            Synthetic(*arguments)


def caption(fig):
    return " ".join(fig.texts[-1].get_text().split())


class TestFigure:
    def test_rows_columns_and_points(self, run):
        fig, grid = quality_cost(run.table)
        titles = [panels[0].get_title(loc="left") for panels in grid]
        assert titles == [
            "activations, magnitude",
            "activations, clact",
            "weights, magnitude",
            "weights, channel_vector",
        ]
        assert [ax.get_xlabel() for ax in grid[0]] == [
            "decode, 1 token, flexible-8x16: speedup vs dense [×]",
            "prefill, 4096 tokens, flexible-8x16: speedup vs dense [×]",
            "stored bits of the operand [bits/element]",
        ]
        rows = run.table.query("layer == 'all' and operand == 'weights' and criterion == 'magnitude'")
        drawn = sorted(line.get_ydata()[0] for line in grid[2, 1].lines if line.get_linestyle() == "None")
        assert drawn == pytest.approx(sorted(rows["relative_output_error"]))
        assert grid[0, 0].get_yscale() == "log"
        assert any("Activations: synthetic llm-like. 64 tokens" in text.get_text() for text in fig.texts)

    def test_filled_points_are_those_that_none_beats(self, run):
        _, grid = quality_cost(run.table)
        points = [line for panels in grid[:2] for line in panels[1].lines if line.get_linestyle() == "None"]
        at = [(line.get_xdata()[0], line.get_ydata()[0]) for line in points]
        for line, (speed, error) in zip(points, at, strict=True):
            beaten = any(s >= speed and e <= error and (s, e) != (speed, error) for s, e in at)
            assert (line.get_markerfacecolor() == line.get_color()) == (not beaten)

    def test_criteria_without_groups_are_lines_and_take_no_column(self, path):
        ways, _ = cross(
            "activations",
            ["2:4", "8:16", "1:4"],
            ["magnitude", "unstructured", "unstructured_global"],
            ["none", "var"],
        )
        table = measure(path, ways).table
        fig, grid = quality_cost(table)
        assert [panels[0].get_title(loc="left") for panels in grid] == ["activations, magnitude"]
        assert len(grid[0]) == 3
        lines = [line for line in grid[0, 1].lines if line.get_color() == LIGHT.quiet]
        plain = table[
            (table["layer"] == ALL)
            & (table["mitigation"] == "none")
            & table["criterion"].str.startswith("unstr")
        ]
        expected = sorted(plain["relative_output_error"].unique())
        assert sorted(line.get_ydata()[0] for line in lines) == pytest.approx(expected)
        assert len(expected) == 4
        labels = [text.get_text() for text in fig.legends[0].texts]
        assert labels[-2:] == ["unstructured", "unstructured_global"]
        assert len(set(labels)) == len(labels)
        assert "that have a mitigation, not drawn: 6." in caption(fig)
        assert "Line: Pareto front of the criterion of a panel" in caption(fig)

    def test_a_line_passes_through_points_of_its_panel_only(self, run):
        fig, grid = quality_cost(run.table)
        lines = 0
        for ax in grid.flat:
            at = {
                (line.get_xdata()[0], line.get_ydata()[0])
                for line in ax.lines
                if line.get_linestyle() == "None"
            }
            for line in ax.lines:
                if line.get_drawstyle() == "steps-post":
                    assert {*zip(line.get_xdata(), line.get_ydata(), strict=True)} <= at
                    lines += 1
            low, high = ax.get_xlim()
            assert high - low >= 0.2 * (low + high) / 2 - 1e-9
        assert lines
        assert "Filled: beaten by no way of the operand" in caption(fig)

    def alike(self, ax):
        return any("alike within their noise" in text.get_text() for text in ax.texts)

    def stretched(self, run, ratio):
        """The same table, prefill speedups of weights on the core spread evenly over a ratio."""
        table = run.table.copy()
        chosen = (
            (table["layer"] == ALL) & (table["operand"] == "weights") & table["core_prefill_cycles"].notna()
        )
        table.loc[chosen, "core_prefill_speedup_vs_dense"] = np.linspace(1.3, 1.3 * ratio, chosen.sum())
        return quality_cost(table)[1][2:, 1]

    def test_speedups_within_their_noise_make_no_front(self, run):
        near, far = (self.stretched(run, 1 + part * ALIKE) for part in (0.9, 2))
        for ax in near:
            assert self.alike(ax)
            assert not any(line.get_drawstyle() == "steps-post" for line in ax.lines)
            low, high = ax.get_xlim()
            assert high - low > 0.1
        filled = [
            line
            for ax in near
            for line in ax.lines
            if line.get_linestyle() == "None" and line.get_markerfacecolor() == line.get_color()
        ]
        least = run.table.query(
            "layer == 'all' and operand == 'weights' and stored_bits > 0 and pattern != 'dense'"
        )
        assert [line.get_ydata()[0] for line in filled] == [least["relative_output_error"].min()]
        assert not any(self.alike(ax) for ax in far)

    def test_ranges_of_a_machine_are_drawn_and_decide(self, path):
        few, _ = cross("weights", ["2:4", "8:16"], ["magnitude"], ["none"])
        table = measure(path, few, target=Target(hwmodels.load_machine("h200"), None)).table
        sparse = (table["layer"] == ALL) & (table["criterion"] == "magnitude")

        def panel(lows, highs):
            changed = table.copy()
            changed.loc[sparse, "predicted_decode_speedup_vs_dense"] = [1.2, 1.6]
            changed.loc[sparse, "predicted_decode_speedup_low"] = lows
            changed.loc[sparse, "predicted_decode_speedup_high"] = highs
            return quality_cost(changed)[1][0, 0]

        wide, narrow = panel([1.0, 1.3], [1.4, 1.9]), panel([1.1, 1.5], [1.3, 1.7])
        assert (self.alike(wide), self.alike(narrow)) == (True, False)
        for ax, ends in ((wide, {(1.0, 1.4), (1.3, 1.9)}), (narrow, {(1.1, 1.3), (1.5, 1.7)})):
            (bars,) = ax.collections
            found = {tuple(segment[:, 0].round(9)) for segment in bars.get_segments()}
            assert found == ends
            assert ax.get_xlim()[0] < min(low for low, _ in ends)
            assert ax.get_xlim()[1] > max(high for _, high in ends)
        assert not panel([np.nan, np.nan], [np.nan, np.nan]).collections

    def test_criteria_that_nobody_knew_get_a_dash_of_their_own(self, run):
        table = run.table.copy()
        loose = table["criterion"] == "unstructured"
        other = table[loose].assign(criterion="unstructured_global", relative_output_error=0.5)
        _, grid = quality_cost(pd.concat([table, other], ignore_index=True))
        styles = {str(line.get_linestyle()) + str(line._unscaled_dash_pattern) for line in grid[0, 0].lines
                  if line.get_color() == LIGHT.quiet}  # fmt: skip
        assert len(styles) == 2

    def test_costs_of_another_model_are_named(self, run):
        fig, grid = quality_cost(run.table.assign(costs_of="llama-3.1-8b"))
        assert (
            grid[0, 0].get_xlabel() == "decode, 1 token, llama-3.1-8b on flexible-8x16: speedup vs dense [×]"
        )
        assert "Speedups: the pruned layers of llama-3.1-8b together." in caption(fig)

    def test_what_has_no_error_is_counted(self, run):
        assert "error of 0" not in caption(quality_cost(run.table)[0])
        table = run.table.copy()
        all_layers = (table["layer"] == ALL) & (table["pattern"] != "dense")
        table.loc[all_layers & (table["mitigation"] == "var"), "relative_output_error"] = 0.0
        fig, grid = quality_cost(table)
        assert f"with an error of 0, or without an output, not drawn: 4 of {all_layers.sum()}." in caption(
            fig
        )
        assert len(grid) == 4

    def test_many_mitigations_look_different_and_too_many_are_refused(self):
        names = [f"r_sparse={rank}" for rank in range(1, len(MANY_MARKERS) + 2)]
        patterns = [f"{n}:16" for n in range(1, 12)]
        marks = WayMarks.of(patterns[:-1], names[:-1])
        found = {
            tuple(sorted(map(str, marks.of_way(*pair).items())))
            for pair in itertools.product(patterns[:-1], names[:-1])
        }
        assert len(found) == 190
        with pytest.raises(RowError, match="20 mitigations, expected at most 19"):
            WayMarks.of(patterns[:-1], names)
        with pytest.raises(RowError, match="11 patterns, expected at most 10"):
            WayMarks.of(patterns, names[:-1])

    def test_nothing_to_draw(self, run):
        with pytest.raises(RowError, match="nothing to draw"):
            quality_cost(run.table[run.table["pattern"] == "dense"])


def test_outliers_of_activations_are_measured_where_the_split_puts_them(path, run):
    x = SOURCE.tokens(LAYER, 64).x
    weight = load_file(path)[LAYER].astype(np.float32)
    dense = x.astype(float) @ weight.T
    kept = split(x, Pattern(2, 4)).kept
    expected = np.square(np.where(kept, x, 0) @ weight.T - dense).sum() / np.square(dense).sum()
    row = only(
        run.table,
        layer=MODULE,
        operand="activations",
        pattern="2:4",
        criterion="magnitude",
        mitigation="outliers",
    )
    assert row["relative_output_error"] == pytest.approx(expected, rel=1e-3)
    assert math.isfinite(row["core_prefill_speedup_vs_dense"])

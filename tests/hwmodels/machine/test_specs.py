"""Every shipped machine loads, every number has a source, and a broken file is refused by key."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import hwmodels
from hwmodels.machine.spec import SPEC_FOLDER, HardwareSpec
from nmsim import encodings
from nmsim.case import Case, GemmShape
from nmsim.errors import SpecError
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern
from nmsim.support.schema import Quantity

MACHINES = (
    "a100-sxm", "a100-pcie", "h100-sxm", "h100-pcie", "h200", "b200", "rtx3090", "rtx4090", "rtx5080", "gb10",
    "epyc-2core", "h200-8x16", "h200-16x32", "v100", "rtx2080s", "rtx3060", "rtx3080", "rtx-a6000", "a40", "a10",
    "l4", "l40s", "rtx5090", "rtx-pro-6000-blackwell", "mi300x", "rtx4070-super", "rtx4070-ti-super", "rtx3090-ti",
    "rtx6000-ada", "l20", "h20", "h800-sxm", "h800-pcie", "h100-nvl", "a800-pcie", "a800-sxm", "a30",
    "jetson-agx-orin", "gb200", "mi350x", "xeon-platinum-8480", "epyc-9654",
)  # fmt: skip
H200 = (SPEC_FOLDER / "h200.toml").read_text(encoding="utf-8")


def quantities(spec: HardwareSpec) -> dict[str, Quantity]:
    found = {f.name: getattr(spec, f.name) for f in fields(spec)}
    for name in ("dense_peak_flop_per_s", "sparse_peak_flop_per_s"):
        found |= {f"{name}.{dtype}": quantity for dtype, quantity in found.pop(name).items()}
    for i, unit in enumerate(spec.native):
        found |= {
            f"native[{i}].{rate}": getattr(unit, rate)
            for rate in ("decoder_elements_per_s", "selector_elements_per_s")
            if getattr(unit, rate) is not None
        }
    return {name: value for name, value in found.items() if isinstance(value, Quantity)}


def test_all_machines_ship():
    assert sorted(hwmodels.machine_names()) == sorted(MACHINES)


@pytest.mark.parametrize("name", MACHINES)
def test_loads_with_a_source_beside_every_number(name):
    spec = hwmodels.load_machine(name)
    assert spec.id == name
    found = quantities(spec)
    assert len(found) >= 9
    numbers_in_file = len(re.findall(r"\bvalue = ", (SPEC_FOLDER / f"{name}.toml").read_text("utf-8")))
    assert len(found) == numbers_in_file
    for key, quantity in found.items():
        assert len(quantity.source) > 10, key
        if quantity.kind in ("datasheet", "measured"):
            assert re.search(r"https://|publication \d+", quantity.source), key
        if re.search(r"\bassumption A\d", quantity.source):
            assert quantity.kind == "assumed", key
    for unit in spec.native:
        assert unit.source
        for encoding in unit.encodings:
            encodings.get(encoding)
    assert spec.weight_column_skip.source


@pytest.mark.parametrize("name", MACHINES)
def test_sparse_peak_is_twice_the_dense_peak(name):
    spec = hwmodels.load_machine(name)
    for dtype, sparse in spec.sparse_peak_flop_per_s.items():
        assert sparse.value / spec.dense_peak_flop_per_s[dtype].value == pytest.approx(2, rel=1e-3), dtype


@pytest.mark.parametrize(
    ("name", "dtype", "dense", "sparse"),
    [
        ("h100-sxm", "bf16", 989.4e12, 1978.9e12),
        ("h200", "fp8", 1978.9e12, 3957.8e12),
        ("a100-sxm", "fp16", 312e12, 624e12),
        ("b200", "bf16", 2.25e15, 4.5e15),
        ("rtx4090", "bf16", 165.2e12, 330.4e12),
        ("rtx3080", "bf16", 59.5e12, 119e12),
        ("rtx-a6000", "bf16", 154.8e12, 309.7e12),
        ("l40s", "fp8", 733e12, 1466e12),
        ("rtx5090", "bf16", 209.5e12, 419e12),
        ("mi300x", "fp16", 1307.4e12, 2614.9e12),
        ("mi350x", "fp8", 4614e12, 9228e12),
        ("h100-nvl", "fp16", 835.5e12, 1671e12),
        ("gb200", "bf16", 2.5e15, 5e15),
        ("jetson-agx-orin", "int8", 85e12, 170e12),
    ],
)
def test_a_vendor_figure_with_sparsity_is_not_taken_for_dense(name, dtype, dense, sparse):
    spec = hwmodels.load_machine(name)
    assert spec.dense_peak_flop_per_s[dtype].value == dense
    assert spec.sparse_peak_flop_per_s[dtype].value == sparse


@pytest.mark.parametrize("name", MACHINES)
def test_vector_peak_follows_from_cores_and_clock(name):
    """fp32 peak = cores x lanes x 2 x clock: 64 lanes on V100, Turing and the die of the A100, 128 on other GPUs.

    Two units of 256 bits of a CPU core are 16, two of 512 bits 32.
    """
    spec = hwmodels.load_machine(name)
    half = name.startswith(("v100", "rtx20", "a100", "a800", "a30"))
    cpu = {"epyc-2core": 16, "epyc-9654": 16, "xeon-platinum-8480": 32}
    lanes = cpu[name] if spec.family == "cpu" else 64 if half else 128
    peak = spec.cores.value * lanes * 2 * spec.clock_hz.value
    assert spec.vector_peak_flop_per_s.value == pytest.approx(peak, rel=2e-3)
    assert spec.dense_peak_flop_per_s["fp32"].value == spec.vector_peak_flop_per_s.value


RATES = {
    "hopper": (4096, "h100-pcie h100-sxm h100-nvl h200 h800-pcie h800-sxm"),
    "die of the A100": (2048, "a100-pcie a100-sxm a800-pcie a800-sxm a30"),
    "Orin": (2048, "jetson-agx-orin"),
    "GeForce, and what is held back to it": (
        512,
        "rtx3090 rtx3090-ti rtx4090 rtx4070-super rtx4070-ti-super l20",
    ),
    "die of the RTX 4090, not held back": (1024, "l40s rtx6000-ada"),
    "die of the H100, held back": (1024, "h20"),
    "Blackwell": (8192, "b200 gb200"),
    "CDNA 3": (2048, "mi300x"),
    "CDNA 4": (4096, "mi350x"),
}
LEAST_SHARE = {"hopper": 0.86, "die of the H100, held back": 0.92, "Blackwell": 0.93}
"""Makers quote the tensor peaks of these at a clock below the boost clock; the others are within 3 %."""


@pytest.mark.parametrize("kind", RATES)
def test_16_bit_peak_follows_from_cores_clock_and_a_rate_per_core(kind):
    """Dense 16-bit flop per core and clock cycle, with FP32 accumulation, are a power of two."""
    rate, names = RATES[kind]
    for name in names.split():
        spec = hwmodels.load_machine(name)
        most = spec.cores.value * spec.clock_hz.value * rate
        share = spec.dense_peak_flop_per_s["fp16"].value / most
        assert LEAST_SHARE.get(kind, 0.97) < share < 1.03, (name, share)


@pytest.mark.parametrize(
    ("bits", "gbit_per_s", "names"),
    [
        (192, 21.0, "rtx4070-super"),
        (256, 21.0, "rtx4070-ti-super"),
        (384, 21.0, "rtx3090-ti rtx4090"),
        (384, 20.0, "rtx6000-ada"),
        (384, 18.0, "l20 l40s"),
        (3072, 2.43, "a30"),
        (256, 6.4, "jetson-agx-orin"),
        (512, 4.8, "xeon-platinum-8480"),
        (768, 4.8, "epyc-9654"),
        (8192, 8.0, "mi350x"),
    ],
)
def test_bandwidth_follows_from_the_width_of_the_bus(bits, gbit_per_s, names):
    for name in names.split():
        bandwidth = hwmodels.load_machine(name).dram_bandwidth_bytes_per_s.value
        assert bandwidth == pytest.approx(bits * gbit_per_s * 1e9 / 8, rel=0.03), name


@pytest.mark.parametrize("name", ["v100", "rtx2080s"])
def test_no_sparse_unit_and_no_bf16_before_ampere(name):
    spec = hwmodels.load_machine(name)
    assert not spec.native
    assert not spec.sparse_peak_flop_per_s
    assert "bf16" not in spec.dense_peak_flop_per_s


@pytest.mark.parametrize("name", MACHINES)
def test_every_gpu_has_a_power_limit_and_a_process(name):
    spec = hwmodels.load_machine(name)
    if spec.family == "gpu":
        assert spec.board_power_watts is not None
        assert spec.process_energy_scale is not None


def test_native_units_of_the_hypothetical_machines():
    for name, pattern in (("h200-8x16", Pattern(8, 16)), ("h200-16x32", Pattern(16, 32))):
        spec = hwmodels.load_machine(name)
        assert spec.hypothetical
        assert (
            spec.native_unit(
                sparse_format(pattern, encoding="combinatorial", packing="bitstream"),
                operand="weights",
                dtype="bf16",
            )
            is not None
        )
        assert (
            spec.native_unit(
                sparse_format(pattern, encoding="combinatorial", packing="no_straddle:64"),
                operand="weights",
                dtype="bf16",
            )
            is not None
        )
        assert (
            spec.native_unit(
                sparse_format(pattern, encoding="combinatorial", packing="byte"),
                operand="weights",
                dtype="bf16",
            )
            is None
        )
        assert (
            spec.native_unit(
                sparse_format(pattern, encoding="combinatorial", packing="bitstream"),
                operand="weights",
                dtype="fp32",
            )
            is None
        )
        assert (
            spec.native_unit(
                SparseFormat.parse("4:8/combinatorial/bitstream"), operand="weights", dtype="bf16"
            )
            is None
        )


def test_names_and_aliases_in_any_case():
    assert (
        hwmodels.load_machine("H100")
        is hwmodels.load_machine("h100-sxm")
        is hwmodels.load_machine(" h100-SXM5 ")
    )
    spec = hwmodels.load_machine("h200")
    assert hwmodels.load_machine(spec) is spec


def test_names_and_aliases_are_unique():
    taken = [name for machine in MACHINES for name in (machine, *hwmodels.load_machine(machine).aliases)]
    assert len(taken) == len(set(taken))


def test_loads_a_users_own_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(H200.replace('id = "h200"', 'id = "mine"'), encoding="utf-8")
    assert hwmodels.load_machine(file).id == hwmodels.load_machine(str(file)).id == "mine"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        SpecError, match=r"'h2000': no machine of that name. Did you mean h200\? Known: .*gb10"
    ):
        hwmodels.load_machine("h2000")
    with pytest.raises(SpecError, match=r"hardware 5 \(type int\): expected a name"):
        hwmodels.load_machine(5)


def test_missing_file_and_broken_toml(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere.toml: cannot be read: No such file"):
        hwmodels.load_machine(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("id = ", encoding="utf-8")
    with pytest.raises(SpecError, match=r"bad.toml: cannot be read as TOML"):
        hwmodels.load_machine(tmp_path / "bad.toml")


def test_a_figure_in_another_unit_is_refused(tmp_path):
    text = (SPEC_FOLDER / "h200.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("value = 4.8e+12", "value = 4.8"), encoding="utf-8")
    with pytest.raises(
        SpecError,
        match=r"dram_bandwidth_bytes_per_s.value=4.8: expected at least 1e\+08 bytes_per_s; "
        r"did you mean 4.8e\+09 \(4.8 GB/s\) or 4.8e\+12 \(4.8 TB/s\)\?",
    ):
        hwmodels.load_machine(tmp_path / "mine.toml")


def test_a_sparse_peak_below_the_dense_one_is_refused(tmp_path):
    text = (SPEC_FOLDER / "h200.toml").read_text(encoding="utf-8")
    dense, sparse = text.split("[sparse_peak_flop_per_s]")
    slip = sparse.replace("value = 1.9789e+15", "value = 1.9789e+14")
    (tmp_path / "mine.toml").write_text(f"{dense}[sparse_peak_flop_per_s]{slip}", encoding="utf-8")
    with pytest.raises(
        SpecError, match=r"sparse_peak_flop_per_s.fp16: value=.*: expected at least the dense peak"
    ):
        hwmodels.load_machine(tmp_path / "mine.toml")


BROKEN = {
    "unknown key": (
        "[memory]\n",
        "[memory]\ndram_bandwith_bytes_per_s = 1\n",
        r"memory.dram_bandwith_bytes_per_s: unknown key \(did you mean dram_bandwidth_bytes_per_s\?\)",
    ),
    "unknown top-level key": (
        'family = "gpu"',
        'family = "gpu"\ncolour = "green"',
        r"colour: unknown key; expected",
    ),
    "bad unit in a key": (
        "dram_bandwidth_bytes_per_s",
        "dram_bandwidth_gb_per_s",
        r"memory.dram_bandwidth_gb_per_s: unknown key \(did you mean dram_bandwidth_bytes_per_s\?\)",
    ),
    "missing table": (
        "[memory]\n",
        "[dense_peak_flop_per_s.memory]\n",
        r"memory: missing; this table is required",
    ),
    "negative number": (
        "value = 4.8e+12",
        "value = -4.8e+12",
        r"memory.dram_bandwidth_bytes_per_s.value=-4800000000000.0: expected at least 1e\+08 bytes_per_s",
    ),
    "fraction of a core": (
        "value = 132,",
        "value = 131.5,",
        r"chip.cores.value=131.5: expected a whole number of cores",
    ),
    "unknown kind": (
        'value = 132, kind = "datasheet"',
        'value = 132, kind = "rumour"',
        r"chip.cores.kind='rumour': expected one of datasheet",
    ),
    "unknown type": (
        "tf32 = {",
        "tf33 = {",
        r"dense_peak_flop_per_s.tf33: unknown key \(did you mean tf32\?\)",
    ),
    "family": ('family = "gpu"', 'family = "tpu"', r"family='tpu': expected one of gpu, cpu"),
    "header type": (
        "hypothetical = false",
        'hypothetical = "no"',
        r"hypothetical='no': expected true or false",
    ),
    "pattern": (
        'pattern = "2:4"',
        'pattern = "4:2"',
        r"native\[0\].pattern='4:2': pattern 4:2: expected 1 <= N <= M",
    ),
    "packing": (
        '"bitstream", ',
        '"bytes", ',
        r"native\[0\].packings\[0\]='bytes': expected one of bitstream",
    ),
    "operand": (
        'operands = ["weights"',
        'operands = ["filters"',
        r"native\[0\].operands\[0\]='filters': expected one of weights, activations",
    ),
    "native type without peak": (
        'dtypes = ["fp16"',
        'dtypes = ["fp4"',
        r"native\[0\].dtypes: 'fp4' has no entry in sparse_peak_flop_per_s",
    ),
    "feature": (
        "supported = true",
        'supported = "yes"',
        r"weight_column_skip.supported='yes': expected true or false",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_by_file_and_key(tmp_path, case):
    old, new, message = BROKEN[case]
    assert old in H200
    file = tmp_path / "mine.toml"
    file.write_text(H200.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError, match=rf"mine\.toml: {message}"):
        hwmodels.load_machine(file)


def test_missing_key_empty_source_and_lone_sparse_peak(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(re.sub(r"^clock_hz.*\n", "", H200, flags=re.M), encoding="utf-8")
    with pytest.raises(SpecError, match=r"mine\.toml: chip\.clock_hz: missing; this key is required"):
        hwmodels.load_machine(file)
    file.write_text(re.sub(r'^(clock_hz.*source = )".*"', r'\1""', H200, flags=re.M), encoding="utf-8")
    with pytest.raises(SpecError, match=r"mine\.toml: chip\.clock_hz\.source='': expected text"):
        hwmodels.load_machine(file)
    dense, rest = H200.split("[sparse_peak_flop_per_s]")
    file.write_text(
        re.sub(r"^int8.*\n", "", dense, flags=re.M) + "[sparse_peak_flop_per_s]" + rest, encoding="utf-8"
    )
    with pytest.raises(SpecError, match=r"sparse_peak_flop_per_s\.int8: expected a dense peak of that type"):
        hwmodels.load_machine(file)


def test_every_assumption_named_in_code_and_specs_is_listed():
    root = Path(hwmodels.__file__).parent
    listed = (root.parent / "docs/explanation/assumptions.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^\| (A\d+) \|", listed, flags=re.M)
    defined, named = set(numbers), set()
    assert numbers == [f"A{number}" for number in range(1, len(numbers) + 1)], "each number once, in order"
    for file in [*root.rglob("*.py"), *root.rglob("*.toml")]:
        named |= set(re.findall(r"(?<!NVIDIA )\bA\d{2}\b|\bA[1-9]\b", file.read_text(encoding="utf-8")))
    assert named == defined


@pytest.mark.parametrize(
    ("machine", "dtype", "operand", "pattern", "best"),
    [
        ("h200", "bf16", "weights", "2:4", "2:4/index"),
        ("h200", "fp32", "weights", "2:4", "2:4/bitmask"),
        ("h200", "bf16", "activations", "2:4", "2:4/index"),
        ("h200", "bf16", "weights", "8:16", "8:16/bitmask"),
        ("h200-8x16", "bf16", "weights", "8:16", "8:16/combinatorial"),
        ("epyc-2core", "fp32", "weights", "2:4", "2:4/bitmask"),
    ],
)
def test_the_best_format_is_what_the_unit_of_a_machine_reads(machine, dtype, operand, pattern, best):
    found = hwmodels.best_format(pattern, machine, dtype=dtype, operand=operand)
    assert found.short == best
    unit = hwmodels.load_machine(machine).native_unit(found, operand=operand, dtype=dtype)
    assert (unit is None) == best.endswith("bitmask")


PAIRED = ("b200", "gb200", "gb10", "rtx5080", "rtx5090", "rtx-pro-6000-blackwell")


@pytest.mark.parametrize("name", MACHINES)
def test_units_for_fp4_take_pairs(name):
    """Blackwell multiplies sparse fp4 in pairs alone; CDNA 4 has no sparse unit for it, though it multiplies fp4."""
    spec = hwmodels.load_machine(name)
    units = [unit for unit in spec.native if "fp4" in unit.dtypes]
    assert [unit.takes_pattern for unit in units] == (["4:8 in pairs"] if name in PAIRED else [])
    assert ("fp4" in spec.sparse_peak_flop_per_s) == (name in PAIRED)
    assert ("4:8 in pairs" in hwmodels.machine.spec.summary(spec)["native_patterns"]) == (name in PAIRED)


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_no_format_is_taken_for_pairs(pattern):
    """A mask of 2:4 or 4:8 may split pairs, so software decodes it; the explanation says what the unit takes."""
    case = Case(GemmShape(16, 4096, 4096), f"{pattern}/index", dtype="fp4")
    answer = hwmodels.predict(case, "b200")
    assert answer.execution != "native"
    assert (
        f"The sparse fp4 unit of b200 takes 4:8 in pairs of elements, not {pattern} of single ones"
        in answer.explanation
    )
    for other in (Case(case.shape, case.format, dtype="fp8"), Case(case.shape, None, dtype="fp4")):
        assert "pairs" not in hwmodels.predict(other, "b200").explanation
    assert "pairs" not in hwmodels.predict(case, "mi350x").explanation

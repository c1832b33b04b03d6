import dataclasses

import pytest

from hwmodels.tensorcore.record import NUMBERS, SparseTensorCore, core_names, load_core
from nmsim.errors import SpecError
from nmsim.support.schema import about
from nmsim.support.toml import to_toml


def write(path, **changes):
    """The flexible 8:16 core as a file, some lines changed."""
    lines = to_toml(load_core("flexible-8x16")).splitlines()
    for key, text in changes.items():
        lines = [text if line.startswith(f"{key} = ") else line for line in lines]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", core_names())
def test_every_preset_is_read_back_as_it_was_written(name, tmp_path):
    core = load_core(name)
    assert core.id == name
    path = tmp_path / "core.toml"
    path.write_text(to_toml(core, comment="a comment"), encoding="utf-8")
    again = load_core(path)
    assert again == core
    assert again.sources == core.sources


@pytest.mark.parametrize("name", core_names())
def test_every_number_of_a_preset_has_a_source(name):
    core = load_core(name)
    assert all(core.source(number) for number in NUMBERS)


def test_every_field_stands_in_a_section():
    in_sections = {field.name for field in dataclasses.fields(SparseTensorCore)} - {"id", "name", "sources"}
    assert all(about(SparseTensorCore, name).section for name in in_sections)


def test_presets_of_one_chip_differ_in_what_is_sparse_only():
    dense = load_core("dense")
    assert dense.patterns == ()
    for name in ("nvidia-like-2x4", "flexible-4x8", "flexible-8x16", "flexible-16x32"):
        core = load_core(name)
        for field in (
            "cores",
            "clock_hz",
            "array_rows",
            "array_depth",
            "shared_bytes",
            "dram_bytes_per_cycle",
        ):
            assert getattr(core, field) == getattr(dense, field)
        assert 2 * core.clock_hz * core.macs_per_cycle(16) == pytest.approx(989.4e12, rel=1e-3)


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("cores", "coers = 132", r"chip\.coers: unknown key \(did you mean cores\?\)"),
        ("cores", "", r"chip\.cores: missing"),
        ("cores", "cores = 0", "cores=0: expected at least 1 cores"),
        ("cores", "cores = 1.5", r"cores=1.5: expected a whole number of cores"),
        ("cores", "cores = true", "cores=True"),
        ("clock_hz", "clock_hz = nan", "clock_hz=nan"),
        (
            "clock_hz",
            "clock_hz = 1.8",
            r"chip.clock_hz=1.8: expected at least 1e\+06 hz; did you mean .*1.8e\+09 \(1.8 GHz\)",
        ),
        (
            "shared_bytes_per_cycle",
            "shared_bytes_per_cycle = 234_240_000_000",
            "did you mean bytes per second. Then give 2.3424e.11 over clock_hz, 128",
        ),
        (
            "l2_bytes",
            "l2_bytes = 50",
            r"l2.l2_bytes=50: expected at least 1000 bytes; did you mean .*5e\+07 \(50 MB\)",
        ),
        ("multicast", "multicast = 1", "multicast=1: expected true or false"),
        (
            "select_network",
            'select_network = "benes"',
            "select_network='benes': expected one of onehot, ordered_mux, mux",
        ),
        ("patterns", 'patterns = "8:16"', r"array\.patterns='8:16': expected a list"),
        ("patterns", 'patterns = ["17:16"]', "17:16"),
        ("encodings", 'encodings = ["bitmsak"]', "bitmsak"),
        ("encodings", "encodings = []", "a core with patterns needs sparse_operands and encodings"),
        ("dtypes", "dtypes = []", "expected at least one value type"),
        ("lane_bits", "lane_bits = 7", "'fp16' of 16 bits does not fill whole lanes of 7 bits"),
        (
            "accumulator_bits",
            "accumulator_bits = 8",
            "accumulate.accumulator_bits: 8 bits, narrower than a value of fp16",
        ),
        ("dram_bytes_per_cycle", "dram_bytes_per_cycle = 1e300", "expected at most 1e.08"),
        ("patterns", 'patterns = ["8:16", "8:16"]', "patterns: 8:16 is given 2 times"),
        ("chip", 'chop = "x"', r"sources\.chop: expected the name of a number or a section"),
        ("chip", "", "sources: nothing for cores, clock_hz, node_nm, nor for section chip"),
        ("chip", 'chip = " "', "sources.chip=' ': expected text"),
    ],
)
def test_a_bad_file_names_the_key_and_what_was_expected(key, text, problem, tmp_path):
    path = write(tmp_path / "bad.toml", **{key: text})
    with pytest.raises(SpecError, match=problem) as caught:
        load_core(path)
    assert str(path) in str(caught.value)


def test_a_number_may_stand_with_its_source(tmp_path):
    text = 'cores = { value = 4, kind = "assumed", source = "a test" }'
    core = load_core(write(tmp_path / "core.toml", cores=text))
    assert (core.cores, core.source("cores")) == (4, "assumed: a test")
    assert core.source("clock_hz") == load_core("flexible-8x16").source("clock_hz")


def test_all_problems_of_a_file_come_in_one_run(tmp_path):
    path = write(
        tmp_path / "bad.toml", cores="coers = nan", multicast="multicast = 1", lane_bits="lane_bits = 3"
    )
    with pytest.raises(SpecError) as caught:
        load_core(path)
    assert [line.partition(": ")[2].partition(":")[0] for line in str(caught.value).splitlines()] == [
        "chip.coers", "chip.coers=nan", "array.lane_bits=3", "l2.multicast=1",
    ]  # fmt: skip


def test_files_that_are_no_toml_or_not_there(tmp_path):
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        load_core(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[chip", encoding="utf-8")
    with pytest.raises(SpecError, match="cannot be read as TOML"):
        load_core(tmp_path / "bad.toml")


def test_an_unknown_name_gets_a_near_one():
    with pytest.raises(SpecError, match=r"'flexible-8x17'.*Did you mean flexible-8x16\?"):
        load_core("flexible-8x17")
    with pytest.raises(SpecError, match="expected a name, a .toml path or a core"):
        load_core(8)


def test_narrower_values_fill_the_depth():
    core = load_core("dense")
    assert (core.depth(16), core.depth(8), core.depth(32)) == (16, 32, 8)

import dataclasses

import pytest

from hwmodels.tensorcore.core_file import SECTION_OF, core_names, load_core, to_toml
from hwmodels.tensorcore.record import NUMBERS
from nmsim.errors import SpecError


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
    path.write_text(to_toml(core, "a comment"), encoding="utf-8")
    again = load_core(path)
    assert again == core
    assert again.sources == core.sources


@pytest.mark.parametrize("name", core_names())
def test_every_number_of_a_preset_has_a_source(name):
    core = load_core(name)
    assert all(core.source(number) for number in NUMBERS)


def test_every_field_stands_in_a_section():
    fields = {field.name for field in dataclasses.fields(load_core("dense"))}
    assert fields == {*SECTION_OF, "id", "name", "sources"}


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
        ("cores", "cores = 1.5", r"cores=1.5 \(type float\): expected a whole number of cores"),
        ("cores", "cores = true", "cores=True"),
        ("clock_hz", "clock_hz = nan", "clock_hz=nan"),
        ("clock_hz", "clock_hz = 1.8", "clock_hz=1.8: expected at least 1e"),
        ("multicast", "multicast = 1", "multicast=1: expected true or false"),
        (
            "select_network",
            'select_network = "benes"',
            "select_network: 'benes': expected one of mux, crossbar, banked",
        ),
        ("patterns", 'patterns = "8:16"', r"array\.patterns='8:16': expected a list of text"),
        ("patterns", 'patterns = ["17:16"]', "17:16"),
        ("encodings", 'encodings = ["bitmsak"]', "bitmsak"),
        ("encodings", "encodings = []", "a core with patterns needs sparse_operands and encodings"),
        ("dtypes", "dtypes = []", "expected at least one value type"),
        ("lane_bits", "lane_bits = 7", "'fp16' of 16 bits does not fill whole lanes of 7 bits"),
        ("accumulator_bits", "accumulator_bits = 8", "accumulator_bits=8: narrower than a value of fp16"),
        ("dram_bytes_per_cycle", "dram_bytes_per_cycle = 1e300", "expected at most 1e.15"),
        ("patterns", 'patterns = ["8:16", "8:16"]', "patterns: 8:16 is given 2 times"),
        ("chip", 'chop = "x"', r"sources\.chop: expected the name of a number or a section"),
        ("chip", "", "sources: nothing for cores, nor for its section chip"),
        ("chip", 'chip = " "', "sources.chip=' ': expected text"),
    ],
)
def test_a_bad_file_names_the_key_and_what_was_expected(key, text, problem, tmp_path):
    path = write(tmp_path / "bad.toml", **{key: text})
    with pytest.raises(SpecError, match=problem) as caught:
        load_core(path)
    assert str(path) in str(caught.value)


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

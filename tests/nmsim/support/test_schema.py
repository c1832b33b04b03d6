"""Formats declared once: all problems of a file in one run, unit slips questioned, text and schema from the declaration."""

import dataclasses
import json
import pickle
import subprocess
import sys
import tomllib
from typing import Annotated

import pytest

from nmsim.errors import SpecError
from nmsim.pattern import Pattern
from nmsim.support.schema import (
    About,
    Flag,
    Id,
    Number,
    OneOf,
    Parsed,
    Quantity,
    Text,
    load_record,
    names_of,
    read_json,
    read_record,
    record,
)
from nmsim.support.schema_pages import field_table, json_schema  # fmt: skip
from nmsim.support.toml import to_toml, toml_value


@record
class Unit:
    pattern: Annotated[
        Pattern, Parsed(lambda v: v if isinstance(v, Pattern) else Pattern.parse(v)), About("Pattern.")
    ]
    dtypes: Annotated[tuple[Annotated[str, OneOf(("fp16", "bf16"))], ...], About("Types.")] = ("fp16",)


@record
class Units:
    unit: Annotated[tuple[Unit, ...], About("Units.")]


@record
class Named:
    id: Annotated[Id, About("Id.")]


@record
class Chip:
    name: Annotated[Text, About("Name.")]
    cores: Annotated[int, Number("cores", "Cores of the chip.", section="chip", least=1)]
    clock_hz: Annotated[float, Number("hz", "Clock.", section="chip")]
    l2_bytes_per_cycle: Annotated[int, Number("bytes_per_cycle", "Rate.", section="l2", least=1, most=1e8)]
    dram: Annotated[Quantity | None, Number("bytes_per_s", "Bandwidth.", section="l2")] = None
    static: Annotated[float, Number("share", "Share that is static.")] = 0.5
    shared: Annotated[Flag, About("Whether L2 is shared.")] = True
    units: Annotated[tuple[Unit, ...], About("Units.")] = ()

    def problems(self):
        if self.cores == 7:
            yield "chip.cores", "7 cores, expected another number"
        if self.static == 0.25 and self.cores == 7:
            yield "static", "0.25 does not go with 7 cores"


GOOD = {
    "name": "one",
    "chip": {"cores": 4, "clock_hz": 1_500_000_000},
    "l2": {"l2_bytes_per_cycle": 64, "dram": {"value": 2e12, "kind": "assumed", "source": "here"}},
    "units": [{"pattern": "2:4"}, {"pattern": "8:16", "dtypes": ["bf16"]}],
}  # fmt: skip


def lines(**changes) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_record(Chip, GOOD | changes, where="one.toml")
    return str(caught.value).splitlines()


def test_a_record_is_read_written_and_read_again(tmp_path):
    chip = load_record(Chip, GOOD)
    assert chip.units[1] == Unit(Pattern(8, 16), ("bf16",))
    assert chip.dram == Quantity(2e12, "bytes_per_s", "assumed", "here")
    assert isinstance(chip.clock_hz, int)
    path = tmp_path / "one.toml"
    path.write_text(to_toml(chip, comment="a\n\nb"), encoding="utf-8")
    assert path.read_text().startswith("# a\n#\n# b\n\nname = ")
    assert read_record(Chip, path) == chip
    assert pickle.loads(pickle.dumps(chip)) == chip
    assert hash(dataclasses.replace(chip)) == hash(chip)


def test_all_problems_come_in_one_run():
    found = lines(
        name=" ", colour="red", chip={"coers": 4, "clock_hz": True}, l2=3, shared=1,
        units=[{"pattern": "4:2", "dtype": ["bf16"]}, {"dtypes": ["bf61"]}],
    )  # fmt: skip
    assert found == [
        "one.toml: colour: unknown key; expected name, static, shared, units, chip, l2",
        "one.toml: chip.coers: unknown key (did you mean cores?); expected cores, clock_hz",
        "one.toml: l2=3: expected a table",
        "one.toml: units[0].dtype: unknown key (did you mean dtypes?); expected pattern, dtypes",
        "one.toml: name=' ': expected text",
        "one.toml: chip.clock_hz=True: expected a number of hz",
        "one.toml: shared=1: expected true or false",
        "one.toml: units[0].pattern='4:2': pattern 4:2: expected 1 <= N <= M (N counts what is kept)",
        "one.toml: units[1].pattern: missing; this key is required",
        "one.toml: units[1].dtypes[0]='bf61': expected one of fp16, bf16; did you mean bf16?",
    ]


def test_a_missing_table_is_named_once():
    document = {name: value for name, value in GOOD.items() if name != "chip"}
    with pytest.raises(SpecError) as caught:
        load_record(Chip, document)
    assert str(caught.value) == "chip: missing; this table is required"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"chip": {"cores": 4, "clock_hz": 1.8}}, "did you mean 1.8e+06 (1.8 MHz) or 1.8e+09 (1.8 GHz)?"),
        (
            {"l2": {"l2_bytes_per_cycle": 3 * 10**12}},
            "expected at most 1e+08 bytes_per_cycle; did you mean bytes per second? Then give 3e+12 over clock_hz, 2000",
        ),
        ({"static": 12}, "static=12: expected at most 1 share; did you mean 0.12 (12 percent)?"),
        (
            {"l2": {"l2_bytes_per_cycle": 1, "dram": {"value": 4.8, "kind": "assumed", "source": "x"}}},
            "l2.dram.value=4.8: expected at least 1e+08 bytes_per_s; did you mean 4.8e+09 (4.8 GB/s) or 4.8e+12 (4.8 TB/s)?",
        ),
    ],
)  # fmt: skip
def test_a_unit_slip_is_questioned(changes, text):
    (line,) = lines(**changes)
    assert text in line


def test_a_number_without_source_is_named():
    (line,) = lines(l2={"l2_bytes_per_cycle": 1, "dram": 2e12})
    assert line.endswith('{ value = ..., kind = "...", source = "..." }; a plain number has no source')
    (line,) = lines(l2={"l2_bytes_per_cycle": 1, "dram": {"value": 2e12, "kind": "assumed"}})
    assert line == "one.toml: l2.dram.source: missing; this key is required"
    with pytest.raises(SpecError, match="expected a quantity in bytes_per_s"):
        dataclasses.replace(load_record(Chip, GOOD), dram=Quantity(1e9, "hz", "assumed", "x"))


def test_fields_are_checked_against_each_other_and_in_python():
    assert lines(static=0.25, chip={"cores": 7, "clock_hz": 1e9}) == [
        "one.toml: chip.cores: 7 cores, expected another number",
        "one.toml: static: 0.25 does not go with 7 cores",
    ]
    with pytest.raises(
        SpecError, match=r"^cores=0: expected at least 1 cores\nclock_hz=nan: expected a number of hz$"
    ):
        Chip("one", cores=0, clock_hz=float("nan"), l2_bytes_per_cycle=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_record(Chip, GOOD).cores = 3


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SpecError, match="none.toml: cannot be read: No such file"):
        read_record(Chip, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(SpecError, match="bad.toml: cannot be read as UTF-8: byte 8"):
        read_record(Chip, tmp_path / "bad.toml")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SpecError, match="bad.json: cannot be read as JSON: "):
        read_json(tmp_path / "bad.json")


def test_schema_and_table_say_what_is_declared():
    schema = json_schema(Chip, title="A chip")
    assert json.loads(json.dumps(schema)) == schema
    assert schema["required"] == ["name", "chip", "l2"]
    cores = schema["properties"]["chip"]["properties"]["cores"]
    assert (cores["type"], cores["minimum"], cores["description"]) == ("integer", 1, "Cores of the chip.")
    assert schema["$defs"]["Unit"]["properties"]["dtypes"]["items"]["enum"] == ["fp16", "bf16"]
    table = field_table(Chip).splitlines()
    assert "| `chip.cores` | cores, whole, at least 1 | required | Cores of the chip. |" in table
    assert '| `units[].dtypes` | list: one of `fp16`, `bf16` | `["fp16"]` | Types. |' in table
    assert names_of(Chip, declared=Number) == ("cores", "clock_hz", "l2_bytes_per_cycle", "dram", "static")


def test_toml_of_text_with_quotes_and_controls():
    text = 'a "quoted" \\ ü \x7f\n'
    assert tomllib.loads(f"name = {toml_value(text)}")["name"] == text


@pytest.mark.parametrize("char", "\n\r\t\0\x1b\x7f\x9b\u202e\u2066\u200b\u2028\ufeff\U000e0041")
def test_names_and_sources_print_and_ids_follow_their_grammar(char):
    for change in (
        {"name": f"a{char}b"},
        {"dram": dict(GOOD["dram"], source=f"a{char}b")} if "dram" in GOOD else {},
    ):
        if change:
            with pytest.raises(SpecError, match="do(es)? not print"):
                load_record(Chip, GOOD | change)


@pytest.mark.parametrize(
    "text", ["=1+1", "-x", "@x", "+x", "a/b", "a b", "", "a\n", "..", "é", "x" * 81, "[red]", "<b>", "a|b"]
)
def test_an_id_is_a_plain_word(text):
    with pytest.raises(SpecError, match="^id=.*: expected an id: letters, digits"):
        load_record(Named, {"id": text})


@pytest.mark.parametrize("text", ["h200", "rtx-pro-6000", "a.b_c+d", "8x16", "x" * 80])
def test_ids_that_follow_the_grammar_are_taken(text):
    assert load_record(Named, {"id": text}).id == text


@pytest.mark.parametrize("slip", ["cource", "quelle"])
def test_the_value_of_a_misspelt_key_of_a_nested_table_is_checked_in_the_same_run(slip):
    document = {"unit": [{"patern": "2:x", "dtypes": ["fp61"]}, {slip: 1, "pattern": "9:4"}]}
    with pytest.raises(SpecError) as caught:
        load_record(Units, document)
    text = str(caught.value)
    for part in ("unit[0].patern: unknown key (did you mean pattern?)", "unit[0].patern='2:x': ", "unit[0].dtypes[0]='fp61'",
                 f"unit[1].{slip}: unknown key", "unit[1].pattern='9:4'"):  # fmt: skip
        assert part in text
    assert "missing" not in text


@pytest.mark.parametrize(
    ("value", "capacity", "fits"), [(50, True, False), (50, False, True), (50_000, True, True)]
)
def test_the_least_of_bytes_is_a_property_of_capacities(value, capacity, fits):
    @record
    class Memory:
        size_bytes: Annotated[int, Number("bytes", "Size.", capacity=capacity)]

    if fits:
        assert load_record(Memory, {"size_bytes": value}).size_bytes == value
    else:
        with pytest.raises(SpecError, match=r"at least 1000 bytes; did you mean 50000 \(50 KB\)"):
            load_record(Memory, {"size_bytes": value})


def test_the_bits_and_the_command_line_start_without_pydantic():
    code = "import sys, nmsim, nmsim.cli; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

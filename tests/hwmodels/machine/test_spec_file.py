"""Specs written as TOML come back as they were; the optional keys of a measured machine are checked like all others."""

from dataclasses import replace

import pytest

import hwmodels
from hwmodels.machine.spec import SPEC_FOLDER, CacheLevel
from nmsim.errors import SpecError
from nmsim.support.schema import Quantity
from nmsim.support.toml import to_toml

CACHE = """
[[cache]]
level = "L1"
shared = false
bytes = { value = 32768, kind = "measured", source = "here" }
core_read_bandwidth_bytes_per_s = { value = 1e11, kind = "measured", source = "here" }
read_bandwidth_bytes_per_s = { value = 2e11, kind = "measured", source = "here" }
"""
CPU = (SPEC_FOLDER / "epyc-2core.toml").read_text(encoding="utf-8") + CACHE


def seconds(value: float) -> Quantity:
    return Quantity(value, "s", "measured", 'a "quoted" source, with \\ and ü')


@pytest.mark.parametrize("name", hwmodels.machine_names())
def test_what_is_written_comes_back(tmp_path, name):
    spec = hwmodels.load_machine(name)
    file = tmp_path / "copy.toml"
    file.write_text(to_toml(spec, comment="two\nlines"), encoding="utf-8")
    assert hwmodels.load_machine(file) == spec
    assert file.read_text(encoding="utf-8").startswith("# two\n# lines\n\nid = ")


def test_optional_numbers_and_caches_come_back(tmp_path):
    rate = Quantity(1.5e11, "bytes_per_s", "measured", "here")
    level = CacheLevel("L2", True, Quantity(1 << 20, "bytes", "measured", "here"), rate, rate)
    spec = replace(
        hwmodels.load_machine("epyc-2core"),
        thread_wake_s=seconds(1e-4),
        call_overhead_s=seconds(3e-7),
        cache=(level, level),
    )
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(spec), encoding="utf-8")
    assert hwmodels.load_machine(file) == spec


def test_shipped_machines_need_none_of_them():
    spec = hwmodels.load_machine("h200")
    assert (spec.cache, spec.core_read_bandwidth_bytes_per_s) == ((), None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shared = false", 'shared = "no"', r"cache\[0\].shared='no': expected true or false"),
        ('level = "L1"\n', "", r"cache\[0\].level: missing"),
        ("value = 32768", "value = 0.5", r"cache\[0\].bytes.value=0.5: expected a whole number of bytes"),
        (
            "\nread_band",
            "\nread_bond",
            r"cache\[0\].read_bondwidth_bytes_per_s: unknown key \(did you mean read_band",
        ),
        ("[[cache]]", "[cache]", r"cache={.*: expected an array of tables"),
        (
            "[memory]",
            "thread_wake_ms = 1\n[memory]",
            r"chip.thread_wake_ms: unknown key \(did you mean thread_wake_s",
        ),
    ],
)
def test_a_broken_entry_is_refused_by_key(tmp_path, old, new, message):
    assert old in CPU
    file = tmp_path / "mine.toml"
    file.write_text(CPU.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError, match=rf"mine\.toml: {message}"):
        hwmodels.load_machine(file)

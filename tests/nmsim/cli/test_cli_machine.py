"""`nmsim machine`: what ships is listed, shown with sources, and written as a file that reads back."""

import dataclasses
import json

import hwmodels


def test_the_list_has_every_machine_and_fits(nmsim):
    code, text, err = nmsim("machine", "--list")
    assert (code, err) == (0, "")
    assert all(name in text for name in hwmodels.machine_names())
    assert max(map(len, text.splitlines())) <= 100
    code, text, _ = nmsim("machine", "--list", "--json")
    records = {record["id"]: record for record in json.loads(text)}
    assert list(records) == hwmodels.machine_names()
    assert records["h200"]["dram_bandwidth_bytes_per_s"] == 4.8e12
    assert records["h200-8x16"]["native_patterns"] == ["2:4", "8:16"]
    assert records["v100"]["sparse_peak_flop_per_s"] is None


def test_a_machine_is_shown_with_a_source_per_number(nmsim):
    code, text, err = nmsim("machine", "h200-8x16", "--json")
    assert (code, err) == (0, "")
    numbers = {record["key"]: record for record in json.loads(text)["numbers"]}
    assert numbers["memory.dram_bandwidth_bytes_per_s"]["value"] == 4.8e12
    assert numbers["dense_peak_flop_per_s.bf16"]["unit"] == "flop_per_s"
    assert "native[1].decoder_elements_per_s" in numbers
    assert all(record["source"] for record in numbers.values())
    code, text, _ = nmsim("machine", "h200-8x16")
    assert code == 0
    assert "chip.clock_hz" in text


def test_a_machine_is_written_to_start_from(nmsim, tmp_path):
    path = tmp_path / "mine.toml"
    assert nmsim("machine", "h200", "--write", path)[:2] == (0, f"wrote {path}\n")
    shipped = hwmodels.load_machine("h200")
    assert shipped.aliases
    assert hwmodels.load_machine(path) == dataclasses.replace(shipped, aliases=())
    code, _, err = nmsim("machine", "h200", "--write", path)
    assert code == 2
    assert "exists" in err
    assert nmsim("machine", "h200", "--write", path, "--force")[0] == 0
    text = (
        path.read_text()
        .replace("[memory]", "[memory]\nsize = 3")
        .replace("value = 4800000000000.0", "value = 4.8")
    )
    path.write_text(text)
    code, _, err = nmsim("machine", path)
    assert code == 2
    assert "memory.size: unknown key" in err
    assert "did you mean 4.8e+09 (4.8 GB/s) or 4.8e+12 (4.8 TB/s)?" in err


def test_bad_arguments_are_named(nmsim):
    assert "no machine given" in nmsim("machine")[2]
    assert "Did you mean h200?" in nmsim("machine", "h2000")[2]
    assert "expected a name that ends in .toml" in nmsim("machine", "h200", "--write", "mine.txt")[2]

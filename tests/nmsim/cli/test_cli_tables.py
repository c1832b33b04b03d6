"""Tables fit 100 characters on every terminal, options mean the same for every verb, and formats are read in one way."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmsim import save_file
from nmsim.cli import VERBS, console, options
from nmsim.errors import NmsimError, PatternError
from validate import write_example
from validate.study.example_checkpoint import TINY

SPACE = """
[core]
base = "flexible-8x16"
[axes]
pattern = ["dense", "2:4", "8:16"]
encoding = ["bitmask", "combinatorial"]
tokens = [1, 512]
array_depth = [8, 16]
decoder_elements_per_cycle = [16, 64]
[workload]
model = "llama-3.1-8b"
"""
LONG_NAMES = "rtx-pro-6000-blackwell,h200-16x32"
RUNS = {
    "bits": [["bits"], ["bits", "64:128", "-e", "bitmask,index,gap:2,combinatorial,joint"]],
    "inspect": [["inspect", "tiny.safetensors", "-p", "2:4,8:16", "-e", "bitmask,combinatorial"]],
    "check": [["check", "tiny.safetensors", "-p", "4:4"]],
    "convert": [["convert", "--list"]],
    "model": [["model", "--list"], ["model", "deepseek-v3"], ["model", "gemma-3-4b", "--context", "100000"]],
    "predict": [
        ["predict", "1,4096,4096"],
        ["predict", "16384,28672,8192", "-H", LONG_NAMES],
        ["predict", "-m", "llama-3.1-8b", "-H", f"{LONG_NAMES},edge-npu-8x16"],
        ["predict", "-m", "gemma-3-4b", "-p", "16:32/combinatorial", "-H", "h200", "--prefill", "100000"],
    ],
    "threshold": [["threshold", "-p", "8:16", "-x", "none,8:256,columns:128", "-H", LONG_NAMES]],
    "mitigations": [["mitigations"], ["mitigations", "-m", "qwen2.5-7b", "-l", "down,gate"]],
    "machine": [["machine", "--list"], ["machine", "h200"]],
    "core": [
        ["core", "4096,4096,4096"],
        ["core", "512,1024,1024", "-c", "dual-sided-8x16", "-p", "8:16", "--other", "8:16", "--simulate"],
        ["core", "--list"],
    ],
    "compare": [
        ["compare", "nvidia-like-2x4", "flexible-8x16", "-p", "2:4"],
        ["compare", "rtx-pro-6000-blackwell", "dual-sided-8x16", "-p", "8:16"],
    ],
    "synth": [["synth", "-f", "2:4/combinatorial", "--variant", "serial"]],
    "rtl": [["rtl", "-f", "8:16/combinatorial", "--list"]],
    "sweep": [["sweep", "space.toml"]],
    "validate": [["validate"]],
    "quality": [["quality", "tiny.safetensors", "--operand", "both", "-p", "8:16", "--eval-tokens", "16"]],
}
"""Runs of the verbs that print tables; pack, calibrate, measure, perplexity, fit and bench print theirs alike."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_example(tmp_path / "tiny.safetensors", shape=TINY)
    (tmp_path / "space.toml").write_text(SPACE)
    return tmp_path


def table_lines(text):
    """Lines of tables: those from a rule to the next line without cells, and the headings above the rule."""
    blocks = re.split(r"\n *\n", text)
    return [line for block in blocks if "──" in block for line in block.splitlines()]


@pytest.mark.parametrize("arguments", [run for runs in RUNS.values() for run in runs], ids=" ".join)
def test_a_table_takes_at_most_100_characters(nmsim, folder, monkeypatch, arguments):
    monkeypatch.setattr(console.out, "width", 40)
    code, out, _ = nmsim(*arguments)
    lines = table_lines(out)
    assert code == 0
    assert lines
    assert max(len(line.rstrip()) for line in lines) <= console.WIDTH
    assert "…" not in out


def test_a_table_in_a_file_does_not_depend_on_the_terminal(nmsim, monkeypatch):
    printed = set()
    for columns in (40, 100, 200):
        monkeypatch.setattr(console.out, "width", columns)
        printed.add(nmsim("bits", "8:16", "64:128"))
    assert len(printed) == 1


def test_every_verb_that_prints_tables_is_run():
    others = {"pack", "unpack", "export", "study", "calibrate", "measure", "perplexity", "fit", "bench"}
    assert set(RUNS) | others == set(VERBS)


def test_wide_shows_what_a_table_leaves_out(nmsim):
    _, narrow, _ = nmsim("predict", "1,4096,4096")
    _, wide, _ = nmsim("predict", "1,4096,4096", "--wide")
    assert "--wide adds: execution" in narrow
    assert "expand" not in narrow
    assert "expand" in wide
    assert "--wide adds" not in wide


@given(st.data())
def test_any_table_is_cut_to_100_characters_and_loses_no_cell_of_a_column_it_keeps(data):
    width = data.draw(st.integers(1, 9))
    cell = st.text("abc 12", max_size=40)
    headings = [f"{place} {data.draw(cell)}" for place in range(width)]
    rows = data.draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=3))
    with console.out.capture() as caught:
        console.print_table("title", headings, rows, extra=headings[5:], spare=headings[1:3])
    assert max(map(len, caught.get().splitlines())) <= console.WIDTH
    kept = "".join(caught.get().split())
    for row in rows:
        for word in row[0].split():
            assert word[:3] in kept


def test_formats_take_what_they_leave_out_from_the_other_options():
    def texts(*arguments):
        return [str(asked.format or "dense") for asked in options.formats(*arguments)]

    assert texts(["2:4,8:16/index"], ["bitmask", "gap:2"]) == [
        "2:4/bitmask/bitstream", "2:4/gap:2/bitstream", "8:16/index/bitstream",
    ]  # fmt: skip
    assert texts(["8:16/index/byte,dense", "8:16"], ["index"], ["byte", "bitstream"]) == [
        "8:16/index/byte", "dense", "8:16/index/bitstream",
    ]  # fmt: skip
    named = options.formats(["2:4", "8:16/index", "dense"])
    assert [asked.chosen for asked in named] == [False, True, True]


@pytest.mark.parametrize("text", ["8:16/", "8:16/index/byte/1", "8", "sparse"])
def test_a_format_of_another_shape_is_refused(text):
    with pytest.raises(PatternError):
        options.formats([text])
    with pytest.raises(NmsimError, match="no pattern given"):
        options.formats([","])


def test_a_machine_chooses_the_encoding_that_nobody_named(nmsim):
    _, out, _ = nmsim("predict", "2048,4096,4096", "-p", "2:4")
    assert " 2:4/index " in out
    assert "its machine's sparse unit reads, or else bitmask" in out
    _, out, _ = nmsim("predict", "2048,4096,4096", "-p", "2:4/bitmask")
    assert " 2:4/bitmask " in out
    assert "No encoding was named" not in out
    _, out, _ = nmsim("core", "512,1024,1024", "-c", "nvidia-like-2x4", "-p", "2:4")
    assert " 2:4/index " in out
    assert "fewest cycles on its core" in out


def test_predict_says_that_a_unit_keeps_pairs_alone(nmsim):
    def said(*options):
        code, out, _ = nmsim("predict", "16,4096,4096", "-p", "2:4", *options)
        assert code == 0
        return " ".join(out.split())

    words = "The sparse fp4 unit of b200, gb10 keeps elements in pairs alone"
    assert words in said("--hardware", "b200,gb10,mi350x", "--dtype", "fp4")
    assert "in pairs" not in said("--hardware", "b200,gb10", "--dtype", "fp8")
    assert said("--hardware", "b200", "--dtype", "fp4").count("in pairs") == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "BF16", "torch.bfloat16"])
def test_a_value_type_has_many_names_on_the_command_line(nmsim, dtype):
    ours = nmsim("predict", "1,64,64", "-p", "2:4/index", "--dtype", dtype)
    assert ours == nmsim("predict", "1,64,64", "-p", "2:4/index")


def test_json_and_wide_are_options_of_every_verb(nmsim):
    for verb in VERBS:
        text = nmsim(verb, "--help")[1]
        assert "--json" in text, verb
        assert "--wide" in text, verb
        assert "Examples:" in text, verb


def test_brackets_are_no_markup(nmsim, folder):
    save_file({"[red]weight": np.ones((4, 8))}, folder / "x.safetensors")
    assert "[red]weight" in nmsim("inspect", "x.safetensors", "-p", "2:4", "--all")[1]

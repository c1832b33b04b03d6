"""Figures of accuracy: those of the README are what the rows that ship say; the page marks rows of fewer windows."""

import math
import re
from pathlib import Path

import pytest

import validate
from validate.accuracy.losses import DENSE, one_operand

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "validate/data/losses/smollm2-news.csv"
README = (ROOT / "README.md").read_text(encoding="utf-8")
WAYS = {
    "activations, by magnitude": ("activations", "magnitude"),
    "weights, by magnitude times the norm of the inputs": ("weights", "channel_vector"),
}
"""First cell of a line of the table -> operand and criterion."""


@pytest.fixture(scope="module")
def table():
    [found] = validate.loss_tables(row for row in validate.read_losses([ROWS]) if row.layers == "all")
    return found


def lines_of_the_table():
    """Patterns, and the cells below them by the first cell of their line."""
    [text] = re.findall(r"^\| \| 2:4 \|.*\n\|-.*\n(?:\|.*\n)+", README, re.M)
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return head[1:], {line[0]: line[1:] for line in lines}


def test_the_table_of_the_readme_is_that_of_the_rows(table):
    patterns, lines = lines_of_the_table()
    assert patterns == ["2:4", "4:8", "8:16", "16:32"]
    assert set(lines) == set(WAYS)
    for name, cells in lines.items():
        operand, criterion = WAYS[name]
        for pattern, cell in zip(patterns, cells, strict=True):
            # Not through the intervals of the package: the ratio of two perplexities, each from its own row.
            pruned, dense = (
                table.find(one) for one in (one_operand(operand, pattern, criterion=criterion), DENSE)
            )
            assert cell == f"{math.exp(pruned.loss) / math.exp(dense.loss):.2f}", (name, pattern)


def test_the_sentences_of_the_readme_are_those_of_the_rows(table):
    dense = table.find(DENSE)
    pruned = table.find(one_operand("activations", "8:16"))
    assert f"all {pruned.layers_pruned} linear layers of SmolLM2-135M" in README
    assert f"{dense.windows * (dense.window_tokens - 1):,} tokens of news" in README
    assert (dense.model, dense.text) == ("smollm2", "news")


def test_the_page_marks_cells_that_were_measured_on_fewer_windows(table):
    """RIA has half the windows: unmarked it reads as the best of its line, though paired it is not."""
    page = (ROOT / "docs/explanation/accuracy.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^\| pattern \| kept \|.*\n\|-.*\n(?:\|.*\n)+", page, re.M)
    _, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    columns = (
        ("activations", "magnitude"), ("weights", "magnitude"), ("weights", "channel_vector"), ("weights", "ria"),
    )  # fmt: skip
    most, marked = table.find(DENSE).windows, {True: 0, False: 0}
    for pattern, _, *cells in lines:
        for (operand, criterion), cell in zip(columns, cells, strict=True):
            if pattern != "unstructured" and cell:
                fewer = table.find(one_operand(operand, pattern, criterion=criterion)).windows < most
                assert cell.endswith(r"\*") == fewer, (pattern, operand, criterion)
                marked[fewer] += 1
    assert marked[False]
    assert (r"A cell with \* has fewer windows" in page) == bool(marked[True])

"""Plain words: pages, docstrings, comments, errors and helps follow `tests/repo/plain_words.toml`.

A finding names the file, the line, the sentence and the rule. What is not plain yet is counted in `[ratchet]`, per package
or page: a count may only fall.
"""

import re

import plain_words
import pytest
from plain_words import PACKAGES, RULES, TABLE, findings, markdown_blocks, pages, source_blocks, sources


def report(found):
    return "\n" + "\n".join(map(str, found))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(plain_words.ROOT)))
def test_pages_are_plain(page):
    found = plain_words.check(page)
    allowed = TABLE["ratchet"].get(str(page.relative_to(plain_words.ROOT)), 0)
    assert len(found) <= allowed, report(found)


@pytest.mark.parametrize("folder", [*PACKAGES, "docs"])
def test_sources_are_plain(folder):
    chosen = [path for path in sources() if path.relative_to(plain_words.ROOT).parts[0] == folder]
    assert chosen
    found = [finding for path in chosen for finding in plain_words.check(path)]
    allowed = TABLE["ratchet"].get(folder, 0)
    assert len(found) <= allowed, f"{len(found)} findings, {allowed} allowed{report(found)}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["name"])
def test_each_rule_finds_its_bad_samples_and_no_good_ones(rule):
    assert rule["bad"]
    for sample in rule["bad"]:
        broken = {found.rule for found in findings("sample", markdown_blocks(sample))}
        assert rule["name"] in broken, sample
    for sample in rule["good"]:
        broken = {found.rule for found in findings("sample", markdown_blocks(sample))}
        assert rule["name"] not in broken, sample


def words(count):
    return "A " + " ".join(["word"] * (count - 1)) + "."


def rules_of(text):
    return [found.rule for found in findings("page.md", markdown_blocks(text))]


def test_a_sentence_of_26_words_is_found_and_of_25_is_not():
    assert rules_of(words(25)) == []
    assert rules_of(words(26)) == ["26 words, at most 25"]
    assert rules_of(f"{words(20)} {words(20)}") == []
    assert rules_of(f"{words(20)} `code` {words(20)[2:]}") == []
    assert len(rules_of(words(26).replace(" ", "\n"))) == 1


def test_a_finding_names_file_line_sentence_and_rule():
    (finding,) = findings("page.md", markdown_blocks("# Title\n\nFirst.\n\nIt takes 4 bits\na group.\n"))
    assert (finding.file, finding.line, finding.rule) == ("page.md", 5, "a for per")
    assert str(finding).startswith("page.md:5: a for per: 'It takes 4 bits a group.'")


def test_code_quotations_and_formulas_are_left_out():
    bad = "4 bits a group"
    assert rules_of(f"```\n{bad}\n```\n") == []
    assert rules_of(f"See `{bad}`.") == []
    assert rules_of(f'The paper says "{bad}".') == []
    assert rules_of(f"> {bad}\n") == []
    assert rules_of(f"Text:\n\n    {bad}\n") == []
    assert rules_of(f"| a | {bad} |\n|---|---|\n") == ["a for per"]
    assert rules_of(f"See [{bad}](page.md).") == ["a for per"]
    assert rules_of(", ".join(["[one page](page.md)"] * 20)) == []
    assert rules_of(f"- one\n- {bad}\n") == ["a for per"]


def test_texts_of_a_source_are_found(tmp_path):
    source = tmp_path / "source.py"
    source.write_text(
        '''"""Bits a group."""

# Bytes an
# element.
RATE = 1.0
"""Cycles a token."""


def verb(path):
    """Read a file.

    Parameters
    ----------
    path : str
        Rows a file may have: bits a group.

    Examples
    --------
    >>> bits = "bits a group"
    """
    raise ValueError(f"{path}: bits a group" + " are missing")


option(help="Values a row.")
'''
    )
    found = findings("source.py", source_blocks(source))
    assert sorted((one.line, one.rule) for one in found) == [
        (line, "a for per") for line in (1, 3, 6, 15, 21, 24)
    ]


def test_names_of_rules_are_distinct_and_patterns_compile():
    names = [rule["name"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        re.compile(rule["pattern"])
        assert rule["why"].endswith(".")
        assert rule["say"].endswith(".")

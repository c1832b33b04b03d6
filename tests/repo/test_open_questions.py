"""The page of open questions: every figure of an answer stands in what a command above it prints."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/explanation/open-questions.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
FIGURE = re.compile(r"(?<![\w.:/])\d+(?:\.\d+)?(?![\w.]*:\d)")
COMMON = {"0.75", "0.875", "2.7"}
"""Said by the papers' abstracts, and named in the questions."""


def parts(section):
    """What the commands of a section print, and its prose, addresses of links left out."""
    printed, prose, language = [], [], None
    for line in section.splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language is None:
            prose.append(line)
        elif language == "text" or (language == "console" and not line.startswith("$ ")):
            printed.append(line)
    text = re.sub(r"\]\([^)]*\)|arXiv \S+|`[^`]*`|\d+:\d+", " ", "\n".join(prose))
    return "\n".join(printed), text


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.split(".")[0])
def test_figures_of_the_prose_were_printed(section):
    printed, prose = parts(section)
    numbers = set(re.findall(r"\d+(?:\.\d+)?", printed.replace(",", "")))
    said = {one for one in FIGURE.findall(prose) if "." in one or len(one) > 3} - COMMON
    assert said <= numbers, sorted(said - numbers)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.split(".")[0])
def test_every_question_has_numbers_of_a_command(section):
    printed, prose = parts(section)
    assert re.search(r"\d\.\d", printed)
    assert len(prose.split()) > 40


def test_there_are_thirteen():
    assert [section.split(".")[0] for section in SECTIONS] == [str(number) for number in range(1, 14)]


def test_what_is_said_of_the_papers_is_tagged():
    """A sentence that says what a paper or a log says carries [P] or [C], or says that it was not read."""
    for section in SECTIONS:
        _, prose = parts(section)
        for sentence in re.split(r"(?<=[.:])\s", " ".join(prose.split())):
            if re.search(
                r"\bthe papers? (?!did|does not)\w+s\b|\blogs? (say|have)\b|\bThe code \w", sentence
            ):
                assert re.search(r"\[[PC]\]|was not read|not known", sentence), sentence

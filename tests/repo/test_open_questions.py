"""The page of open questions: every figure of an answer stands in what a command above it prints."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/explanation/open-questions.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
FIGURE = re.compile(r"(?<![\w.:/])\d+(?:\.\d+)?(?![\w.]*:\d)")
COMMON = {"0.75", "0.875", "2.7", "50", "70"}
"""Said by the papers' abstracts, in the names of logs, and in the questions."""


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
    said = {one for one in FIGURE.findall(prose) if "." in one or len(one) > 3} | set(
        re.findall(r"(?<![.\d])(\d+) ?%", prose)
    )
    assert said - COMMON <= numbers, sorted(said - COMMON - numbers)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.split(".")[0])
def test_every_question_has_numbers_of_a_command(section):
    printed, prose = parts(section)
    assert re.search(r"\d\.\d", printed)
    assert len(prose.split()) > 40


def test_there_are_thirteen():
    assert [section.split(".")[0] for section in SECTIONS] == [str(number) for number in range(1, 14)]


ABOUT_PAPERS = [
    PAGE,
    PAGE.with_name("performance-threshold.md"),
    PAGE.parents[1] / "reference/mitigations.md",
]


@pytest.mark.parametrize("page", ABOUT_PAPERS, ids=lambda page: page.stem)
def test_what_is_said_of_the_papers_is_tagged(page):
    """A sentence that says what a paper, its authors or a log say carries [P] or [C], or says that it was not read."""
    _, prose = parts(page.read_text(encoding="utf-8"))
    told = 0
    for sentence in re.split(r"(?<=[.:])\s+(?=[A-Z*\[-])", " ".join(prose.split())):
        if re.search(
            r"\bthe paper (says|calls|asks|shows|names)\b|\b[Ll]ogs \w+ |\bThe code \w|\bthe text of the abstract",
            sentence,
        ):
            told += 1
            assert re.search(r"\[[PC]\]|not read|not known|No log", sentence), sentence
    assert told or page != PAGE

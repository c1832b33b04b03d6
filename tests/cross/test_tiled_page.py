"""The page on the tiled code: its tables are those of the plan, and its examples those of the codec."""

import re
from pathlib import Path

import pytest

from nmsim import encodings
from nmsim.encodings import tiles
from nmsim.pattern import Pattern

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "explanation" / "tiled-code.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> dict[tuple[int, int], list[tuple[int, ...]]]:
    """Tiles of each block of a section: first, ones above and below, u, bu, l, bl."""
    found: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    block = (0, 0)
    for line in section(title).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or not re.search(r"\d", line):
            continue
        if match := re.fullmatch(r"(\d+) elements, (\d+) ones?", cells[0]):
            block = int(match[1]), int(match[2])
        found.setdefault(block, []).append(tuple(map(int, re.findall(r"\d+", " ".join(cells[1:])))))
    return found


@pytest.mark.parametrize(("title", "text"), [("4:8 by hand", "4:8"), ("The tables of 8:16", "8:16")])
def test_tables_are_those_of_the_plan(title: str, text: str) -> None:
    plan, found = tiles.plan(Pattern.parse(text)), rows(title)
    shown = {key for key in plan.blocks if key[1] and key[0] > (1 if text == "4:8" else 4)}
    assert set(found) == shown
    for key in shown:
        assert found[key] == [
            (t.first, t.upper_ones, t.lower_ones, t.upper.first, t.upper.bits, t.lower.first, t.lower.bits)
            for t in plan.blocks[key].tiles
        ]


def test_numbers_in_the_text() -> None:
    tiled = encodings.get("tiled")
    assert tiled.encode([0b01101001, 0b10000111], Pattern(4, 8)).tolist() == [6, 79]
    assert "The code is 6." in PAGE
    assert "The code is 64 + 15 = 79." in PAGE
    plan = tiles.plan(Pattern(8, 16))
    rooms = {key: block.room for key, block in plan.blocks.items()}
    assert "R(8, 1) = 8, R(8, 2) = 32, R(8, 3) = 64, R(8, 4) = 72 and R(4, 2) = 6" in PAGE
    assert [rooms[8, k] for k in (1, 2, 3, 4)] == [8, 32, 64, 72]
    assert (rooms[4, 2], plan.whole.used, 15_554 - Pattern(8, 16).configurations) == (6, 15_554, 2_684)
    assert "from\n15,554 on are illegal, and 2,684 others" in PAGE
    assert dict(plan.most_ones) == {2: 1, 4: 2, 8: 2}
    assert dict(tiles.plan(Pattern(4, 8)).most_ones) == {2: 1, 4: 1}

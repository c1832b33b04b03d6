"""The reference pages of the packages list what the packages export, each name once."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "docs/reference/api"
NAMED = re.compile(r"`((?:nmsim|hwmodels|kernels|validate|tests|docs)/[\w./-]*)`")
"""A path of the repository in the text of a page."""


def listed(page: Path) -> list[str]:
    """Names that a page documents, by their directive of mkdocstrings."""
    return re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(
    "package",
    ["nmsim", "nmsim.interchange", "hwmodels", "hwmodels.plots", "kernels", "kernels.ptx", "validate"],
)
def test_the_page_of_a_package_lists_its_exports(package):
    exported = [f"{package}.{name}" for name in getattr(importlib.import_module(package), "__all__", [])]
    names = listed(API / f"{package}.md")
    assert len(set(names)) == len(names), "a name is listed twice"
    missing, extra = set(exported) - set(names), set(names) - set(exported)
    assert not missing, f"docs/reference/api/{package}.md lacks {sorted(missing)}"
    assert not extra, (
        f"docs/reference/api/{package}.md lists {sorted(extra)}, which {package} does not export"
    )


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "docs/explanation/architecture.md", "docs/public-api.md"]
)
def test_the_files_that_a_page_names_exist(page):
    names = NAMED.findall((ROOT / page).read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_home_page_leads_to_every_page():
    home = ROOT / "docs/index.md"
    targets = {
        (home.parent / link).resolve()
        for link in re.findall(r"\]\(([^)#]+)\)", home.read_text(encoding="utf-8"))
    }
    pages = set((ROOT / "docs").rglob("*.md")) - {home}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - targets) == []


def test_the_page_of_the_tests_names_every_folder():
    page = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    folders = {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))
    }
    table = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)`", table)) == folders


@pytest.mark.parametrize("package", ["nmsim", "hwmodels", "kernels", "validate"])
def test_the_architecture_names_every_room(package):
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {package}, .*?(?=^## )", page, re.M | re.S)
    assert section
    named = {
        name
        for cell in re.findall(r"^\| (`.*?) \|", section[0], re.M)
        for name in re.findall(r"`([^`]+)`", cell)
    }
    rooms = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / package).iterdir()
        if not path.name.startswith("__")
        and (path.suffix == ".py" or any(path.glob("[!_]*")) or any(path.glob("*.py")))
    }
    assert named == rooms

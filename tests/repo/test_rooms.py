"""The shape of the house: few files per folder, and no files that import each other in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nmsim", "hwmodels", "kernels", "validate")
MAX_FILES = 15
"""Modules per folder; the top of nmsim holds what everything is made of, and has more."""
FOLDERS = sorted(
    folder
    for package in (*PACKAGES, "docs", "tests")
    for folder in [ROOT / package, *(ROOT / package).rglob("*")]
    if folder.is_dir() and any(folder.glob("*.py"))
)


def modules_in(root: Path) -> dict[str, Path]:
    """Full name of every module of the packages below a folder, and its file."""
    found = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements but those for type checkers only, which import nothing when the program runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules that a file imports, at its top or inside a function; packages of which it takes a name."""
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules.keys()


def circles(root: Path) -> list[list[str]]:
    """Groups of modules that reach each other by imports (Tarjan's strongly connected components)."""
    modules = modules_in(root)
    graph = {name: imports_of(path, modules) - {name} for name, path in modules.items()}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            groups.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return [group for group in groups if len(group) > 1]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_has_few_files(folder):
    files = sorted(path.name for path in folder.glob("*.py"))
    assert folder == ROOT / "nmsim" or len(files) <= MAX_FILES, files


def test_no_files_import_each_other_in_a_circle():
    assert circles(ROOT) == []


def test_a_circle_is_found(tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "nmsim" / "one.py").write_text("from nmsim import two\n")
    (tmp_path / "nmsim" / "two.py").write_text("def late():\n    import nmsim.three\n")
    (tmp_path / "nmsim" / "three.py").write_text("from nmsim.one import name\n")
    assert circles(tmp_path) == [["nmsim.one", "nmsim.three", "nmsim.two"]]

"""The repository itself: imports stay light, exports are documented, generated pages are fresh, the README runs."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from code_of_pages import check_claims, printed_by, python_blocks

from nmsim.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nmsim", "hwmodels", "kernels", "validate")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])
MAX_LINES = 800
KEYS_OF_CACHES = ("nmsim/support/jit.py",)
"""Modules in which `repr` makes a key, and no message."""


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("nmsim", ["torch", "triton", "matplotlib", "pandas", "hwmodels", "typer", "numpy", "numba"]),
        ("nmsim.cli", ["torch", "triton", "matplotlib", "pandas", "hwmodels", "validate", "numpy", "numba"]),
        ("hwmodels", ["torch", "triton", "matplotlib", "pandas", "numpy", "numba"]),
        ("hwmodels.estimate.model", ["torch", "triton", "matplotlib"]),
        ("validate", ["torch", "triton", "kernels"]),
        ("kernels", ["torch", "triton", "numpy", "numba"]),
        ("kernels.ptx.run", ["torch", "triton"]),
        ("nmsim.reference", ["torch"]),
    ],
)
def test_importing_stays_light(module, absent):
    code = f"import sys, {module}; print(sorted(set({absent!r}) & set(sys.modules)))"
    answer = run(sys.executable, "-c", code)
    assert answer.stdout.strip() == "[]", answer.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["help"]])
def test_the_command_line_starts_without_what_its_verbs_need(arguments):
    code = (
        "import sys\nfrom nmsim.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'numba', 'pandas', 'hwmodels', 'nmsim.encodings'} & set(sys.modules)))"
    )
    answer = run(sys.executable, "-c", code)
    assert answer.stdout.splitlines()[-1] == "[]", answer.stderr


@pytest.mark.parametrize("package", ["nmsim", "hwmodels"])
def test_exports_are_the_same_for_people_programs_and_type_checkers(package):
    """`__all__`, `dir`, the star import, and the imports that a type checker reads."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    origins = {name.name: node.module for node in checked.body for name in node.names}
    assert sorted(origins) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    starred = {}
    exec(f"from {package} import *", starred)
    for name, origin in origins.items():
        assert starred[name] is getattr(module, name) is getattr(importlib.import_module(origin), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is_and_stays_one_idea(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert len(text.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_and_classes_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    overloads = {node for node in public if any(ast.unparse(d) == "overload" for d in node.decorator_list)}
    assert [node.name for node in public if node not in overloads and not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_values_in_messages_are_shown_by_brief(path):
    """`repr` of an integer of many digits raises, and that of a long text is long: `nmsim.errors.brief` does neither."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__repr__"
        for inner in ast.walk(node)
    }
    shown = [node for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) and node not in own]
    found = [ast.unparse(node.value) for node in shown if node.conversion == ord("r")]
    assert found == [] or str(path.relative_to(ROOT)) in KEYS_OF_CACHES


@pytest.mark.parametrize("package", ["nmsim", "hwmodels", "validate", "nmsim.encodings", "nmsim.layouts"])
def test_what_is_exported_exists_and_is_documented(package):
    module = __import__(package, fromlist=["__all__"])
    for name in module.__all__:
        assert hasattr(module, name), f"{package}.{name} is exported but missing"
        exported = getattr(module, name)
        assert not callable(exported) or exported.__doc__, f"{package}.{name} has no docstring"


def test_generated_pages_are_fresh():
    answer = run(sys.executable, "docs/tools/generate.py", "--check")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


RUN_ELSEWHERE = {
    "open-questions.md": "generated by running its blocks, which `test_generated_pages_are_fresh` does",
    "design-a-core.md": "followed with its commands by `test_tutorials.py`",
    "measure-accuracy.md": "followed with its campaign by `kernels/language/test_how_to.py`",
}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if python_blocks(page) and page.name not in RUN_ELSEWHERE],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_python_of_the_docs_runs_and_prints_what_it_says(page, tmp_path):
    blocks = python_blocks(page)
    printed = printed_by([("python", block) for block in blocks], tmp_path)
    for block, text in zip(blocks, printed, strict=True):
        check_claims(block, text)


def test_dependencies_are_pinned_and_the_pins_are_in_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(d for extra in project["optional-dependencies"].values() for d in extra),
    ]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    normal = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9_\-]+", requirement)[0].lower().replace("_", "-")
        assert name in normal, f"{requirement}: no pin in constraints.txt"
        low = re.search(r">=([\d.]+)", requirement)
        assert low, f"{requirement}: no lower bound"
        assert version_tuple(normal[name]) >= version_tuple(low[1])
    assert normal["torch"] == "2.13.0"


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, nmsim):
    code, out, _ = nmsim(verb, "--help")
    assert code == 0
    assert f"Usage: nmsim {verb} " in out


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_of_verbs_says_what_their_docstrings_say(verb):
    function = getattr(importlib.import_module(f"nmsim.cli.{VERBS[verb].module}"), verb)
    assert function.__doc__.splitlines()[0] == VERBS[verb].help


def test_the_command_line_runs_as_a_module():
    answer = run(sys.executable, "-m", "nmsim", "help", "bits")
    assert "Usage: nmsim bits" in answer.stdout, answer.stderr


@pytest.mark.parametrize(
    "path",
    [p for p in SOURCES if ">>>" in p.read_text(encoding="utf-8")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_examples_in_docstrings_print_what_they_say(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert (found.failed, found.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "plots" not in p.parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_shares_are_written_by_percent(path):
    """`nmsim.units.percent` writes 100 % only for 1 and 0 % only for 0; the format `%` rounds to them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    specs = [node.format_spec for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)]
    assert [ast.unparse(spec) for spec in specs if spec is not None and "%" in ast.unparse(spec)] == []


def test_no_marks_of_work_left_undone():
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
    found = [str(p.relative_to(ROOT)) for p in SOURCES if mark.search(p.read_text(encoding="utf-8"))]
    assert found == []


READERS = {
    *("read_text", "read_bytes", "read_csv", "read_parquet", "read_schema", "ParquetFile", "load_npz"),
    *("fromfile", "memmap", "memory_map", "mmap"),
}
MAY_READ = {
    "nmsim/files/atomic.py": "opens what it has written",
    "nmsim/support/sources.py": "opens what the others read",
    "nmsim/support/jit.py": "reads sources of this package",
    "kernels/timing/host.py": "reads what the system says of itself",
    "validate/study/provenance.py": "reads what the system says of itself",
}


def opens_by_itself(node: ast.AST) -> bool:
    """Whether a call opens a file for reading. Data of the package, named in capitals, and open streams may be read."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "'r'"
    if name == "open" and isinstance(node.func, ast.Name):
        return "r" in mode
    subject = node.args[0] if node.args else getattr(node.func, "value", None)
    known = isinstance(subject, ast.Name) and (subject.id.isupper() or subject.id == "stream")
    if isinstance(node.func, ast.Attribute) and name == "load" and ast.unparse(node.func.value) == "np":
        return not known
    return isinstance(node.func, ast.Attribute) and name in READERS and not known


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_module_opens_what_users_name(path):
    """A FIFO or a device blocks whoever opens it, and a mapped file that is cut ends the process."""
    if str(path.relative_to(ROOT)) in MAY_READ:
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if opens_by_itself(node)]
    assert [f"line {call.lineno}: {ast.unparse(call)}" for call in calls] == []


def test_the_rule_of_opening_finds_what_it_is_for():
    lines = [
        "path.read_text()",
        "open(path, 'rb')",
        "np.load(path)",
        "pd.read_csv(path)",
        "mmap.mmap(handle, 0)",
    ]
    assert all(opens_by_itself(ast.parse(line, mode="eval").body) for line in lines)
    assert not any(
        opens_by_itself(ast.parse(line, mode="eval").body) for line in ("open(p, 'wb')", "read_text(p)")
    )

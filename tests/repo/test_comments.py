"""A function of more than 25 lines has a comment that says why it does what it does."""

import ast
import io
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nmsim", "hwmodels", "kernels", "validate")
ALLOWED = tomllib.loads((ROOT / "tests/repo/plain_words.toml").read_text(encoding="utf-8"))["uncommented"]
MAX_LINES = 25
SETTINGS = ("noqa", "type:", "fmt:", "pragma", "ruff:")


def comment_lines(source):
    """Lines with a comment for readers; settings of tools are none."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return {token.start[0] for token in comments if not token.string.lstrip("# ").startswith(SETTINGS)}


def uncommented(source):
    """Names and lines of the long functions without a comment; a docstring does not count as lines."""
    comments = comment_lines(source)
    names = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if not body:
            continue
        first, last = body[0].lineno, body[-1].end_lineno
        above = (node.body[0].end_lineno if ast.get_docstring(node) else node.lineno) + 1
        if last - first + 1 > MAX_LINES and not comments & set(range(min(above, first), last + 1)):
            names.append((node.lineno, node.name))
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_long_functions_say_why(package):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name} has more than {MAX_LINES} lines and no comment that says why"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, name in uncommented(path.read_text(encoding="utf-8"))
    ]
    assert len(found) <= ALLOWED.get(package, 0), "\n" + "\n".join(found)


def function(lines, comment="", docstring=""):
    head = [f'    """{docstring}"""'] if docstring else []
    body = [f"    x = {number}" for number in range(lines)]
    body[-1] += comment
    return "\n".join(["def long():", *head, *body]) + "\n"


def test_the_check_can_fail():
    assert uncommented(function(26)) == [(1, "long")]
    assert uncommented(function(25)) == []
    assert uncommented(function(26, docstring="Why.")) == [(1, "long")]
    assert uncommented(function(26, comment="  # noqa: E501")) == [(1, "long")]
    assert uncommented(function(26, comment="  # the last one is largest")) == []
    assert uncommented("# why\n" + function(26)) == [(2, "long")]

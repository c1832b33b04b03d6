"""Find the prose of the repository and hold each sentence against the rules of `tests/repo/plain_words.toml`.

``python tests/plain_words.py [FILE ...]`` prints the findings of some files, or of the whole repository.
"""

import ast
import re
import sys
import textwrap
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = tomllib.loads((ROOT / "tests/repo/plain_words.toml").read_text(encoding="utf-8"))
MAX_WORDS: int = TABLE["max_words"]
RULES: list[dict[str, str]] = TABLE["rule"]
PATTERNS = [re.compile(rule["pattern"], re.I if rule.get("any_case", True) else 0) for rule in RULES]
PACKAGES = ("nmsim", "hwmodels", "kernels", "validate")
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|vs|cf|et al|Fig|Sec|Eq|No|approx|resp)\.$")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
ITEM = re.compile(r"^\s*([-*+]|\d+[.)])\s+")


@dataclass(frozen=True)
class Block:
    """A paragraph, an item of a list, a comment or one string: its first line and its text."""

    line: int
    text: str


@dataclass(frozen=True)
class Finding:
    """A sentence that breaks a rule."""

    file: str
    line: int
    rule: str
    sentence: str
    say: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.sentence!r}. {self.say}"


def plain(text: str) -> str:
    """The words of a text: links keep their label, and code, formulas and quotations count as one word each."""
    text = LINK.sub(r"\1", text)
    text = re.sub(r"``[^`]+``|`[^`]+`|:\w+:`[^`]+`", " `code` ", text)
    text = re.sub(r"\$[^$]+\$", " `formula` ", text)
    text = re.sub(
        r"[\"“][^\"”]+[\"”]",
        lambda quoted: " `quote`" + ("." if re.search(r"[.?!].$", quoted[0]) else "") + " ",
        text,
    )
    text = re.sub(r"<[^>]+>|https?://\S+", " ", text)
    text = re.sub(r"\*\*|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)", "", text)
    return re.sub(r"\s+([.,;:!?)])", r"\1", " ".join(text.split()))


def sentences(text: str) -> list[str]:
    """A sentence ends at a full stop, a question mark or an exclamation mark before a capital, a digit or code."""
    parts, start = [], 0
    words = plain(text)
    for end in re.finditer(r"[.!?][)\]]?\s+(?=[\"'(\[*]*(?:[A-Z0-9`]|[a-z]+[0-9]|nmsim\b))", words):
        if not ABBREVIATIONS.search(words[start : end.start() + 1]):
            parts.append(words[start : end.end()].strip())
            start = end.end()
    return [part for part in [*parts, words[start:].strip()] if part]


def count_words(sentence: str) -> int:
    """Tokens with a letter or a digit."""
    return sum(bool(re.search(r"\w", token)) for token in sentence.split())


def findings(file: str, blocks: list[Block]) -> list[Finding]:
    """The rules that the sentences of some blocks break."""
    broken = []
    for block in blocks:
        if not re.search(r"\w", LINK.sub("", block.text)):
            continue  # a list of links is no sentence
        for sentence in sentences(block.text):
            n_words = count_words(sentence)
            if n_words > MAX_WORDS:
                rule = f"{n_words} words, at most {MAX_WORDS}"
                broken.append(Finding(file, block.line, rule, sentence, "Write two sentences."))
            for rule_record, pattern in zip(RULES, PATTERNS, strict=True):
                if pattern.search(sentence):
                    say = f"{rule_record['why']} {rule_record['say']}"
                    broken.append(Finding(file, block.line, rule_record["name"], sentence, say))
    return broken


def markdown_blocks(text: str) -> list[Block]:
    """Paragraphs, items and headings of a page, without code, tables, quotations and HTML comments."""
    text = re.sub(r"<!--.*?-->", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.S)
    blocks: list[Block] = []
    lines: list[str] = []
    first, fenced = 1, False

    def close() -> None:
        if lines:
            blocks.append(Block(first, " ".join(lines)))
            lines.clear()

    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*(```|~~~)", line):
            close()
            fenced = not fenced
        elif fenced:
            continue
        elif line.startswith("    ") and not lines:
            continue  # an indented formula
        elif line.startswith("|"):
            close()
            cells = re.split(r"[|;]", line.strip("|"))
            blocks += [Block(number, cell.strip()) for cell in cells if cell.strip(" -:")]
        elif not line.strip() or re.match(r"\s*(>|---+$|===+$|!!! |\?\?\? |::: )", line):
            close()
        elif line.startswith("#"):
            close()
            blocks.append(Block(number, line.lstrip("# ")))
        else:
            if ITEM.match(line):
                close()
            if not lines:
                first = number
            lines.append(ITEM.sub("", line))
    close()
    return blocks


def docstring_blocks(text: str, line: int) -> list[Block]:
    """Paragraphs of a docstring, without the heads of its sections, names with types, examples and formulas."""
    blocks: list[Block] = []
    lines: list[str] = []
    first, example, formula, table, previous = line, False, False, False, 0
    head, _, rest = text.expandtabs().partition("\n")

    def close() -> None:
        if lines:
            blocks.append(Block(first, " ".join(lines)))
            lines.clear()

    for offset, one in enumerate([head.strip(), *textwrap.dedent(rest).splitlines()]):
        if not one.strip():
            close()
            example = False
        elif one.lstrip().startswith(">>>") or example:
            close()
            example = True
        elif formula and one.startswith("  "):
            close()
        elif re.fullmatch(r"\s*=+( +=+)+\s*", one):
            close()
            table = not table
        elif table:
            continue
        elif re.fullmatch(r"\s*[-=~]{3,}\s*", one):
            lines.clear()
        elif re.match(r"^\s*[\w`*., ]+ : \S", one) or re.match(r"\s*(\||\.\. )", one):
            close()
        else:
            formula = False
            if ITEM.match(one) or (lines and indent_of(one) != previous):
                close()
            if not lines:
                first = line + offset
            lines.append(ITEM.sub("", one.strip()))
            previous = indent_of(one)
        if one.rstrip().endswith(":"):
            close()
            formula = True
    close()
    return blocks


def indent_of(line: str) -> int:
    """Spaces before the first word."""
    return len(line) - len(line.lstrip())


def comment_blocks(path: Path) -> Iterator[Block]:
    """Comments of a source; lines that follow each other are one block."""
    first, previous, lines = 0, -2, []
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type != tokenize.COMMENT:
                continue
            text = token.string.lstrip("#: ").strip()
            if re.match(r"(type:|noqa|fmt:|pragma|!|ruff:)", text):
                continue
            alone = not token.line[: token.start[1]].strip()
            if lines and not (alone and token.start[0] == previous + 1):
                yield Block(first, " ".join(lines))
                lines = []
            if not lines:
                first = token.start[0]
            lines.append(re.sub(r"\s*#? ?(fmt: \w+|noqa.*|type: ignore.*)$", "", text))
            previous = token.start[0] if alone else -2
    if lines:
        yield Block(first, " ".join(lines))


def text_of(node: ast.AST) -> str | None:
    """The words of a string, with `code` for what is filled in; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "`code`" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return (left or "`code`") + (right or "`code`") if left or right else None
    return None


def source_blocks(path: Path) -> list[Block]:
    """Docstrings, texts under attributes, comments, errors and helps of a source."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = list(comment_blocks(path))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            blocks += docstring_blocks(node.value.value, node.lineno)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            texts = [text_of(argument) for argument in node.exc.args]
            blocks += [Block(node.lineno, text) for text in texts if text]
        elif isinstance(node, ast.keyword) and node.arg in {"help", "epilog", "description"}:
            text = text_of(node.value)
            blocks += [Block(node.value.lineno, text)] if text else []
    return blocks


def pages() -> list[Path]:
    """The Markdown files of the repository."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])


def sources() -> list[Path]:
    """The Python files of the packages and of the docs' tools."""
    tools = (ROOT / "docs").rglob("*.py")
    return sorted([*(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")), *tools])


def check(path: Path) -> list[Finding]:
    """Every broken rule of a file."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    if path.suffix == ".md":
        return findings(name, markdown_blocks(path.read_text(encoding="utf-8")))
    return findings(name, source_blocks(path))


if __name__ == "__main__":
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or [*pages(), *sources()]
    for one in chosen:
        for finding in check(one):
            print(finding)

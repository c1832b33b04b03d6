"""What the documentation site adds to the pages of `docs`: pages made of other files, and links that work on both.

A page of `docs` links to files of the repository by their relative path, as a code host needs it. The site holds a copy
of each such file under `repository/`, and links there lead to the copy.
"""

import json
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
LOG = logging.getLogger("mkdocs.hooks")
"""Its warnings end a strict build."""
FOREIGN = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
NOTEBOOK = "examples/tour.ipynb"
LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files, and a copy of every file that a page links to."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in ROOT_PAGES.items()}
    del made["index.md"]
    made["examples/tour.md"] = notebook_page(DOCS / NOTEBOOK)
    linked = {
        target
        for page in files.documentation_pages()
        for target in _outside(
            Path(str(page.abs_src_path)).read_text(encoding="utf-8"), f"docs/{page.src_uri}"
        )
    }
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        linked |= _outside(made[ROOT_PAGES[name]], name)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for name in sorted(linked):
        files.append(File.generated(config, _copy(name), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page at what the site holds, and list the code of the examples below their table."""
    if page.parent is None:  # no page beside it: a menu would list the page itself and nothing else
        page.meta["hide"] = ["navigation"]
    here = {made: name for name, made in ROOT_PAGES.items() if name != "README.md"}
    source = here.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if page.file.src_uri == "examples/README.md":
        markdown += "".join(_listing(path) for path in sorted((DOCS / "examples").glob("*.py")))
    return LINK.sub(lambda link: link[1] + _on_site(link[2], source, page.file.src_uri) + link[3], markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give a page without headings the room of its table of contents."""
    if not any(title.children for title in page.toc):
        page.meta["hide"] = [*page.meta.get("hide", []), "toc"]
    return html


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse what a browser would load from another host."""
    for tag in FOREIGN.findall(output):
        LOG.warning("%s loads from another host: %s", page.file.src_uri, tag)
    return output


def notebook_page(path: Path) -> str:
    """Cells of a notebook as Markdown; what a code cell printed stands below it."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        said = "".join(_printed(output) for output in cell["outputs"])
        if said:
            parts.append(f"```text\n{said.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _printed(output: dict[str, object]) -> str:
    data = output.get("text") or (output.get("data") or {}).get("text/plain", "")
    return "".join(data) + ("" if output.get("text") else "\n")


def _listing(path: Path) -> str:
    return f"\n## {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"


def _path(target: str, source: str) -> str | None:
    """Path in the repository of what a page links to; None for an address of the web."""
    if re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _copy(name: str) -> str:
    """Where the site holds a file of the repository; a page that is not of the site stays plain text."""
    return f"repository/{name}" + (".txt" if name.endswith(".md") else "")


def _outside(text: str, source: str) -> set[str]:
    paths = (_path(link[2], source) for link in LINK.finditer(text))
    return {
        p for p in paths if p and not p.startswith("docs/") and p not in ROOT_PAGES and (ROOT / p).is_file()
    }


def _on_site(target: str, source: str, page: str) -> str:
    path = _path(target, source)
    if path is None:
        return target
    if path in ROOT_PAGES:
        goal = ROOT_PAGES[path]
    else:
        goal = path.removeprefix("docs/") if path.startswith("docs/") else _copy(path)
    return posixpath.relpath(goal, posixpath.dirname(page) or ".")

"""Regenerate every generated page of the docs: `make docs`, or `python docs/generate.py --check` to only compare."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nmsim import formats  # noqa: E402

PAGES = {"docs/reference/formats.md": formats.page}


def main(arguments: list[str]) -> int:
    """Write the pages; with --check, write nothing and return 1 when one is out of date."""
    check = arguments == ["--check"]
    stale = []
    for name, make in PAGES.items():
        path, text = ROOT / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'out of date, run make docs' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

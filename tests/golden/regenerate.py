"""Write the golden files anew from the reference: `python tests/golden/regenerate.py`.

Do it only when the format changes on purpose, and raise the format version with it. `invalid.json` and
`rows.json` are written by hand and stay as they are.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from golden import cases  # noqa: E402
from golden.roads import REFERENCE  # noqa: E402


def main() -> None:
    """Write every generated file and say which ones changed."""
    cases.FOLDER.mkdir(exist_ok=True)
    for name, write in cases.DOCUMENTS.items():
        path = cases.FOLDER / name
        text = write(REFERENCE)
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        path.write_text(text, encoding="utf-8")
        print(f"{'written' if changed else 'same   '} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

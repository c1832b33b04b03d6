"""Makes `data/published.csv`, the literature's rows in our schema: `python -m validate.judge.published`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nmsim.errors import NmsimError
from nmsim.rows import measurement_file
from nmsim.rows.measurement import Measurement
from validate.judge.literature import read_literature
from validate.judge.machine_names import Machines
from validate.judge.rows import DATA_FOLDER, PUBLISHED_FILE

SOURCE_FILE = DATA_FOLDER / "published_source.csv"


def write_rows(path: Path, rows: Sequence[Measurement]) -> None:
    """Write a file of rows anew, through a temporary file beside it.

    Raises
    ------
    RowError
        It cannot be written.
    """
    work = path.with_name(f".{path.name}.new")
    work.unlink(missing_ok=True)
    try:
        for row in rows:
            measurement_file.append(work, row)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn a literature table into rows of our schema."""
    parser = argparse.ArgumentParser(prog="python -m validate.judge.published", description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=SOURCE_FILE, help="literature table")
    parser.add_argument("-o", "--output", type=Path, default=PUBLISHED_FILE)
    options = parser.parse_args(arguments)
    try:
        rows, _ = read_literature(options.source, Machines())
        write_rows(options.output, rows)
    except NmsimError as error:
        sys.exit(f"validate.judge.published: {error}")
    print(f"{options.output}: {len(rows)} rows")


if __name__ == "__main__":
    main()

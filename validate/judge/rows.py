"""Rows to be judged, from files in either layout, each with where it stands so that complaints can name it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmsim.errors import RowError
from nmsim.rows import measurement_file
from nmsim.rows.measurement import COLUMNS, Measurement
from nmsim.rows.transfer import COLUMNS as TRANSFER_COLUMNS
from nmsim.rows.transfer import SUFFIX
from validate.judge.literature import LITERATURE_COLUMNS, read_literature, read_table
from validate.judge.machine_names import Machines

DATA_FOLDER = Path(__file__).parents[1] / "data"
PUBLISHED_FILE = DATA_FOLDER / "published.csv"
MEASURED_FOLDER = DATA_FOLDER / "measured"


@dataclass(frozen=True)
class JudgedRow:
    """A measurement, the name of the file or table it is from, and its number there, the first being 1."""

    measurement: Measurement
    file: str
    number: int

    @property
    def where(self) -> str:
        """How errors name the row."""
        return f"{self.file}: row {self.number}"


@dataclass(frozen=True)
class RowFile:
    """The rows of a file, and the columns of it that nothing reads."""

    rows: tuple[JudgedRow, ...]
    unread_columns: tuple[str, ...] = ()


def committed_files() -> list[Path]:
    """The rows that ship with nmsim: published ones, and those of our own campaigns."""
    return [PUBLISHED_FILE, *own_files()]


def own_files() -> list[Path]:
    """The rows of our own campaigns that ship with nmsim: products, not the transfers that lie beside them."""
    return sorted(path for path in MEASURED_FOLDER.glob("*.csv") if not path.name.endswith(SUFFIX))


def committed_hardware() -> list[Path]:
    """The calibrated machines that our own campaigns ran on, beside their rows."""
    return sorted(MEASURED_FOLDER.glob("*.toml"))


def as_rows(measurements: Iterable[Measurement], name: str = "measurements") -> list[JudgedRow]:
    """Number measurements that are in memory."""
    return [JudgedRow(row, name, number) for number, row in enumerate(measurements, start=1)]


def read_rows(path: str | Path, machines: Machines) -> RowFile:
    """Read a file in the row schema, or in the layout of literature tables; the header says which.

    Parameters
    ----------
    path : str or Path
    machines : Machines
        For the names in literature tables.

    Raises
    ------
    RowError
        Neither header, or a bad row: the error names file, row, column, value and what was expected.
    """
    table = read_table(path)
    header = table[0] if table else []
    if set(header) == set(COLUMNS):
        return RowFile(tuple(as_rows(measurement_file.read(path), str(path))))
    if set(header) >= set(LITERATURE_COLUMNS):
        measurements, unread = read_literature(path, machines)
        return RowFile(tuple(as_rows(measurements, str(path))), tuple(unread))
    if set(header) == set(TRANSFER_COLUMNS):
        raise RowError(
            f"{path}: rows of transfers (kernels that prune, pack, unpack or read), which nmsim measure writes beside those of "
            "products: no prediction is made for them, expected a file of products"
        )
    raise RowError(f"{path}: header: {_difference(header)}")


def _difference(header: Sequence[str]) -> str:
    """What tells a header from the nearer of the two layouts."""
    layouts = {"the row schema of nmsim measure": COLUMNS, "literature tables": LITERATURE_COLUMNS}
    name = max(layouts, key=lambda name: len(set(layouts[name]) & set(header)) / len(layouts[name]))
    missing = [column for column in layouts[name] if column not in header]
    unknown = [column for column in header if column not in layouts[name]]
    found = "; ".join(
        f"{word} {', '.join(map(repr, columns))}"
        for word, columns in (("missing", missing), ("unknown", unknown))
        if columns
    )
    problem = f"nearest to {name}, but {found}" if set(header) & set(layouts[name]) else f"found {header!r}"
    return f"{problem}; expected {','.join(COLUMNS)} or {','.join(LITERATURE_COLUMNS)}"

"""The rows of a part in the format that was asked for: JSONL, CSV or Parquet.

JSONL and Parquet hold the fields of `records.Prediction` and `records.ErrorRow`; CSV has a column
`score_<class>` for each class, and `code` and `message`. The same rows are the same bytes.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import importlib.util
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lib import records
from lib.failures import Broken, Misuse
from lib.records import ErrorRow, Prediction

if TYPE_CHECKING:
    import pyarrow

Row = TypeVar("Row", Prediction, ErrorRow)

FORMATS = ("jsonl", "jsonl.gz", "csv", "parquet")

_ARMED = (*records.FORMULA_STARTS, "'")
"""The quote that disarms a cell is armed too: one more makes it plain which quotes are ours."""

_GZIP_LEVEL = 6

# What damaged bytes raise in one reader or another.
_DAMAGES = (AttributeError, LookupError, TypeError, ValueError, EOFError, OSError)
_DAMAGES += (csv.Error, zlib.error)


@dataclass(frozen=True, slots=True)
class Rows:
    """Writes and reads the parts of one run."""

    format: str
    classes: tuple[str, ...]

    def check(self) -> None:
        """Refuse a format that this machine cannot write.

        Raises:
            Misuse: pyarrow is not installed.
        """
        if self.format == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise Misuse("--format parquet needs pyarrow: pip install pyarrow")

    def write(self, kind: type[Row], rows: Sequence[Row]) -> bytes:
        """Return a part with these rows, all of one kind."""
        return _WRITERS[self.format](kind, rows, self.classes)

    def read(self, kind: type[Row], data: bytes, where: str) -> list[Row]:
        """Return the rows of a part; `where` names it if it is damaged.

        Raises:
            Broken: the bytes are no such part.
        """
        try:
            return [_row(kind, fields) for fields in _READERS[self.format](kind, data, where)]
        except _DAMAGES as error:
            told = " ".join(str(error).split())
            raise Broken(f"{where}: damaged, a row cannot be read ({told})") from error


def _row(kind: type[Row], fields: Mapping[str, Any]) -> Row:
    row = kind(**fields)
    if isinstance(row, ErrorRow):
        texts = (row.uri, row.etag, row.error["code"], row.error["message"])
        is_sound = all(isinstance(text, str) for text in texts)
    else:
        is_sound = row.score == row.scores[row.label] == max(row.scores.values())
    if not is_sound:
        raise ValueError(f"it contradicts itself: {row.uri}")
    return row


# ---- JSONL ------------------------------------------------------------------------------------


def _to_jsonl(_: type[Row], rows: Iterable[Row], __: Sequence[str]) -> bytes:
    return b"".join(map(records.to_line, rows))


def _from_jsonl(_: type[Row], data: bytes, where: str) -> Iterator[dict[str, Any]]:
    return (records.parse_object(line, where) for line in data.splitlines())


def _to_gzip(kind: type[Row], rows: Iterable[Row], classes: Sequence[str]) -> bytes:
    return gzip.compress(_to_jsonl(kind, rows, classes), _GZIP_LEVEL, mtime=0)


def _from_gzip(kind: type[Row], data: bytes, where: str) -> Iterator[dict[str, Any]]:
    return _from_jsonl(kind, gzip.decompress(data), where)


# ---- CSV --------------------------------------------------------------------------------------


def _to_csv(kind: type[Row], rows: Iterable[Row], classes: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")  # what it quotes are cells with either
    writer.writerow(_columns(kind, classes))
    writer.writerows([_cell(value) for value in _flat(row)] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _columns(kind: type[Row], classes: Sequence[str]) -> list[str]:
    *names, nested = [field.name for field in dataclasses.fields(kind)]
    if nested == "error":
        return [*names, "code", "message"]
    return [*names, *(f"score_{name}" for name in classes)]


def _flat(row: Prediction | ErrorRow) -> list[Any]:
    *values, nested = [getattr(row, field.name) for field in dataclasses.fields(row)]
    return [*values, *nested.values()]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    return f"'{text}" if text.startswith(_ARMED) else text


def _from_csv(kind: type[Row], data: bytes, _: str) -> Iterator[dict[str, Any]]:
    text = data.decode("utf-8", "surrogateescape")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    wanted, found = _columns(kind, ()), list(reader.fieldnames or ())
    if found[: len(wanted)] != wanted:
        raise ValueError(f"the columns must be {wanted}. Received: {found}")
    for cells in reader:
        yield _nested(kind, {name: cell.removeprefix("'") for name, cell in cells.items()})


def _nested(kind: type[Row], cells: Mapping[str, str]) -> dict[str, Any]:
    """Return a row's fields from its cells, the opposite of `_flat`."""
    names = [field.name for field in dataclasses.fields(kind)]
    fields: dict[str, Any] = {name: cells[name] for name in names[:-1]}
    if names[-1] == "error":
        return fields | {"error": {"code": cells["code"], "message": cells["message"]}}
    scores = {
        name.removeprefix("score_"): float(cell)
        for name, cell in cells.items()
        if name.startswith("score_")
    }
    return fields | {
        "score": float(cells["score"]),
        "confident": cells["confident"] == "true",
        "scores": scores,
    }


# ---- Parquet ----------------------------------------------------------------------------------


def _to_parquet(kind: type[Row], rows: Sequence[Row], classes: Sequence[str]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    schema = _schema(kind, classes)
    table = pyarrow.Table.from_pylist([_utf8(row) for row in rows], schema)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _schema(kind: type[Row], classes: Sequence[str]) -> pyarrow.Schema:
    import pyarrow

    types = {
        "score": pyarrow.float64(),
        "confident": pyarrow.bool_(),
        "scores": pyarrow.struct([(name, pyarrow.float64()) for name in classes]),
        "error": pyarrow.struct([("code", pyarrow.string()), ("message", pyarrow.string())]),
    }
    names = [field.name for field in dataclasses.fields(kind)]
    return pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in names])


def _utf8(row: Prediction | ErrorRow) -> dict[str, Any]:
    """Return a row's fields; Parquet's text is UTF-8, which a file name need not be."""
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return fields | {"uri": plain(row.uri)}


def plain(uri: str) -> str:
    """Return `uri` with what is no UTF-8 spelled out, as every format can hold it."""
    return uri.encode("utf-8", "backslashreplace").decode()


def _from_parquet(_: type[Row], data: bytes, __: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    return iter(parquet.read_table(pyarrow.BufferReader(data)).to_pylist())


_WRITERS: Mapping[str, Callable[..., bytes]] = {
    "jsonl": _to_jsonl,
    "jsonl.gz": _to_gzip,
    "csv": _to_csv,
    "parquet": _to_parquet,
}

_READERS: Mapping[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "jsonl": _from_jsonl,
    "jsonl.gz": _from_gzip,
    "csv": _from_csv,
    "parquet": _from_parquet,
}

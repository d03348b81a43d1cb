"""Rows in every format: what goes in comes out, the same bytes each time, safe in a spreadsheet."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import pytest

from jobs import counts, rows
from jobs.rows import Rows
from lib import records
from lib.failures import Broken
from lib.records import Card, ErrorRow, ImageRule, Prediction

CLASSES = ("cat", "=1+2", 'it\'s, "quoted"\n')

URIS = [
    "s3://photos/a b/ü/日本/😀.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "+1.jpg",
    "-1.jpg",
    "@sum.jpg",
    "'quoted.jpg",
    "\ttab.jpg",
    "\nline.jpg",
    "\rreturn.jpg",
    "a\r=1+2.jpg",
    "＝1+2.jpg",  # noqa: RUF001
    "＋1.jpg",  # noqa: RUF001
    "－1.jpg",  # noqa: RUF001
    "＠sum.jpg",  # noqa: RUF001
    'a "b", c\n\r\nd.jpg',
    "a\u2028b.jpg",
]


def prediction(uri: str, score: float = 0.25) -> Prediction:
    scores = {"cat": score, "=1+2": 1 - score, CLASSES[2]: 0.0}
    label = max(scores, key=scores.__getitem__)
    return Prediction(uri, '"e1"', "cnn", "v1", label, scores[label], score > 0.5, scores)


CARD = Card(
    name="cnn", version="v1", classes=CLASSES, image=ImageRule(), threshold=0.6, temperature=1.0,
    metrics={}, data={}, sessions={}, config={}, libraries={},
)  # fmt: skip


@pytest.mark.parametrize(
    ("score", "is_sure"), [(0.5999999, False), (0.6, True), (0.6000001, True), (0.99, True)]
)
def test_a_score_that_reaches_the_threshold_is_sure_and_one_under_it_is_not(
    score: float, is_sure: bool
) -> None:
    row = records.prediction("a.jpg", "e", CARD, [0.0, score, 1 - score])
    assert (row.label, row.score, row.confident) == (CLASSES[1], score, is_sure)
    told = counts.of([row], [])
    assert (told.predicted, told.not_sure) == (1, int(not is_sure))
    assert counts.total([told, told]).not_sure == 2 * told.not_sure


PREDICTIONS = [prediction(uri, k / len(URIS)) for k, uri in enumerate(URIS)]
ERRORS = [ErrorRow(uri, "", {"code": "empty", "message": "-the file, 'is' empty"}) for uri in URIS]


@pytest.mark.parametrize("format", rows.FORMATS)
@pytest.mark.parametrize(
    ("kind", "some"),
    [(Prediction, PREDICTIONS), (ErrorRow, ERRORS), (Prediction, []), (ErrorRow, [])],
)
def test_rows_come_out_as_they_went_in(format: str, kind: type, some: list) -> None:
    shape = Rows(format, CLASSES)
    data = shape.write(kind, some)
    assert shape.read(kind, data, "part") == some
    assert shape.write(kind, some) == data


def test_a_compressed_part_does_not_tell_when_it_was_written() -> None:
    data = Rows("jsonl.gz", CLASSES).write(Prediction, PREDICTIONS)
    assert data[4:8] == bytes(4)  # MTIME, https://www.rfc-editor.org/rfc/rfc1952#page-7


@pytest.mark.parametrize("format", rows.FORMATS)
def test_a_file_name_that_is_not_utf8_is_a_row_that_is_known_again(format: str) -> None:
    shape, odd = Rows(format, CLASSES), prediction("caf\udce9.jpg")
    (found,) = shape.read(Prediction, shape.write(Prediction, [odd]), "part")
    assert rows.plain(found.uri) == rows.plain(odd.uri)


def test_no_cell_of_a_csv_is_a_formula() -> None:
    for kind, some in ((Prediction, PREDICTIONS), (ErrorRow, ERRORS)):
        data = Rows("csv", CLASSES).write(kind, some).decode()
        cells = [cell for line in csv.reader(io.StringIO(data, newline="")) for cell in line]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_columns_of_a_csv() -> None:
    shape = Rows("csv", ("cat", "dog"))
    row = Prediction("a.jpg", "e", "cnn", "v1", "cat", 0.75, True, {"cat": 0.75, "dog": 0.25})
    assert shape.write(Prediction, [row]).decode() == (
        "uri,etag,model,version,label,score,confident,score_cat,score_dog\r\n"
        "a.jpg,e,cnn,v1,cat,0.75,true,0.75,0.25\r\n"
    )
    assert shape.write(ErrorRow, ERRORS[:1]).decode().startswith("uri,etag,code,message\r\n")


@pytest.mark.parametrize("format", rows.FORMATS)
@pytest.mark.parametrize(
    "damage", [b"{", b"PAR1", b"\x1f\x8b\x08cut", b'uri,etag\n"a', b"a\nb,c\n"]
)
def test_a_damaged_part_is_refused_by_name(format: str, damage: bytes) -> None:
    with pytest.raises(Broken, match="part-00007: damaged"):
        Rows(format, CLASSES).read(Prediction, damage, "part-00007")


def test_a_part_that_was_cut_is_refused() -> None:
    for format in rows.FORMATS:
        data = Rows(format, CLASSES).write(Prediction, PREDICTIONS[:9])
        with pytest.raises(Broken, match="damaged"):
            Rows(format, CLASSES).read(Prediction, data[: len(data) // 2], "part")


def test_parquet_is_loaded_only_when_it_is_asked_for() -> None:
    program = (
        "import sys; from jobs import predict, rows; from lib.records import ErrorRow\n"
        "rows.Rows('csv', ()).write(ErrorRow, []); print('pyarrow' in sys.modules)\n"
        "rows.Rows('parquet', ()).write(ErrorRow, []); print('pyarrow' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.split() == ["False", "True"]

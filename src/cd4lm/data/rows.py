"""Rows of a data file: read from the formats that people have them in, checked, and written.

Every refusal is one line with the file, the row and what to do. Rows are counted from 1, blank lines not among them.
"""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from cd4lm.config import require
from cd4lm.io import is_lfs_pointer

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
# Files that are often named .jsonl by mistake, by how they begin.
OTHERS = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "compressed with zstd", b"BZh": "compressed with bzip2"}
OTHERS |= {b"\xfd7zXZ": "compressed with xz", b"ARROW1": "an Arrow file", b"SQLite": "a database"}
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_rows(path: str | Path) -> Iterable[dict]:
    """Rows of a .jsonl, .json, .csv, .tsv (each also .gz) or .parquet file; those of a parquet file come as they are read.

    Raises ValueError for any other file and for one that is damaged, OSError for one that cannot be opened.
    """
    path = Path(path)
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    require(kind in KINDS, f"{path} must be one of {', '.join(KINDS)}: rename or convert it")
    require(not path.is_dir(), f"{path} is a folder: pass one of its files")
    with open(path, "rb") as file:
        head = file.read(200)
    require(not is_lfs_pointer(head), f"{path} is a Git LFS pointer, not the data: run `git lfs pull`, or download it")
    if kind == ".parquet" or head.startswith(PARQUET):
        return read_parquet(path)
    return read_table(path, kind) if kind in (".csv", ".tsv") else read_jsonl(path)


def read_jsonl(path: str | Path) -> list[dict]:
    """Rows of a text file of JSON lines, or of one JSON list of rows. Raises ValueError naming the line or row."""
    text = read_text(Path(path))
    begin = text.lstrip()[:1]
    escaped = "\\ud" in text.lower()  # the only way in which half of a character can stand in UTF-8
    require(begin != "<", f"{path} is a web page, not data: download it again")
    if begin == "[":
        rows = parse(text, f"{path} begins like a list of rows but")
        return [checked(row, f"{path} row {number}", escaped) for number, row in enumerate(rows, start=1)]
    lines = enumerate(io.StringIO(text, newline=None), start=1)  # at line ends alone: JSON may hold U+2028
    places = ((line, f"{path} line {number}") for number, line in lines if line.strip())
    return [checked(parse(line, place), place, escaped) for line, place in places]


def read_text(path: Path) -> str:
    """A text file, unpacked if it is gzip's, without its byte-order mark. Raises ValueError for anything but text."""
    data = path.read_bytes()
    require(not is_lfs_pointer(data), f"{path} is a Git LFS pointer, not the data: run `git lfs pull`")
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged or truncated ({error}): copy it again") from error
    for begin, what in OTHERS.items():
        require(not data.startswith(begin), f"{path} is {what}: unpack or convert it to JSON lines")
    encoding = BYTE_ORDER_MARKS.get(data[:2], "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} is not a UTF-8 text file (line {line}): save it as UTF-8") from error


def parse(text: str, place: str):
    """A JSON value. Raises ValueError for what is none, and for numbers and depths that Python does not read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or str(error).partition(";")[0]
        raise ValueError(f"{place} is not valid JSON ({reason}): fix or remove it") from error


def checked(row, place: str, escaped: bool) -> dict:
    """A row that is an object, and of whole characters where there are escapes. Raises ValueError otherwise."""
    require(isinstance(row, dict), f"{place} is not an object of columns: fix or remove it")
    try:
        json.dumps(row if escaped else None, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"{place} holds {code}, half of a character (a lone surrogate): fix or remove it") from error
    return row


def read_table(path: Path, kind: str) -> list[dict]:
    """Rows of a comma-, semicolon- or tab-separated file with a header. Raises ValueError where its columns are unclear."""
    text = read_text(path)
    if not text.strip():
        return []
    first = text.lstrip("\r\n").partition("\n")[0]
    marks = ["\t"] if kind == ".tsv" else [mark for mark in ",;\t" if mark in first]
    require(len(marks) == 1, f"{path} has no clear separator in its first line: convert it to JSON lines")
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=marks[0], strict=True)
        header, *lines = filter(any, table)
    except csv.Error as error:
        raise ValueError(f"{path} is not a readable table ({error}): convert it to JSON lines") from error
    names = [name.strip() for name in header]
    require(
        all(names) and len(set(names)) == len(names), f"{path} needs a first line of different column names: {names}"
    )
    for number, line in enumerate(lines, start=1):
        same = len(line) == len(names)
        require(
            same,
            f"{path} row {number} has {len(line)} cells for {len(names)} columns: quote cells that hold {marks[0]!r}",
        )
    return [dict(zip(names, line, strict=True)) for line in lines]


def read_parquet(path: Path) -> Iterator[dict]:
    """Rows of a parquet file as they are read. Raises ValueError for a damaged file."""
    import pyarrow.parquet  # comes with datasets; only this format needs it

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        yield from chain.from_iterable(batch.to_pylist() for batch in batches)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{path} is no readable parquet file ({str(error).splitlines()[0]}): copy it again") from error


def text_of(row: dict, column: str) -> str:
    """The text in a column. Raises ValueError with what the row has instead, the message's subject being the row."""
    others = ", ".join(map(repr, sorted(row, key=str))) or "none"
    require(column in row, f"has no text in column {column!r}, its columns are {others}")
    value = row[column]
    require(isinstance(value, str), f"has no text in column {column!r} but {shown(value)}")
    require(bool(value.strip()), f"has no text in column {column!r}: it is empty")
    return value


def check_texts(rows: Iterable[dict], columns: Iterable[str], source: str | Path) -> None:
    """Raise ValueError naming the first row that lacks a text in one of the columns."""
    columns = tuple(columns)
    for number, row in enumerate(rows, start=1):
        try:
            for column in columns:
                text_of(row, column)
        except ValueError as error:
            raise ValueError(f"{source} row {number} {error}: repair it, or use scripts/prepare_data.py") from error


def shown(value) -> str:
    """The start of a value, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def digest(rows: Iterable[dict]) -> str:
    """SHA-256 of rows, in order."""
    lines = "\n".join(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()

"""Text files line by line: plain, gzip, zstd or standard input, in UTF-8, never read whole.

Knows lines and JSON objects, and what is wrong with them; `corpus` knows what they mean.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, TypeVar, cast

import zstandard

from m3search.errors import ConfigError, DataError

OnError = Literal["stop", "skip"]
Report = Callable[[DataError], None]
T = TypeVar("T")

GZIP, BOM = b"\x1f\x8b", b"\xef\xbb\xbf"
ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or one to skip
COMPRESSED_SUFFIXES = ("", ".gz", ".zst")
UNREADABLE: tuple[tuple[bytes, str, str], ...] = (
    (rb"BZh[1-9]1AY", "bzip2 data", "Unpack it, or pipe `bzcat FILE` in and give - as the file."),
    (rb"\xfd7zXZ", "xz data", "Unpack it, or pipe `xzcat FILE` in and give - as the file."),
    (rb"PK\x03\x04", "a zip archive", "Unpack it and give the text file inside."),
    (rb"PAR1", "a Parquet file", "Convert it to JSON lines."),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8."),
)
READ_BYTES = 1 << 16


def find_file(folder: Path, name: str) -> Path | None:
    """The file `name` in the folder, or its .gz or .zst form, or None."""
    candidates = (folder / (name + suffix) for suffix in COMPRESSED_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def display_name(path: str | Path) -> str:
    """The file as error messages call it."""
    return "standard input" if str(path) == "-" else str(path)


def check_file(path: str | Path, inside: str) -> None:
    """Raises where no file can be read from; `inside` is what such a file is called in a folder."""
    place = Path(path)
    if str(path) == "-":
        return
    if place.is_dir():
        found = find_file(place, inside)
        remedy = f"Give the file inside it: {found}." if found else "Give a file inside it."
        raise DataError(path, expected="a file", found="a folder", remedy=remedy)
    if not place.exists():
        siblings = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        near = difflib.get_close_matches(place.name, siblings, n=1)
        remedy = f"Did you mean {place.parent / near[0]}?" if near else "Check the path."
        raise DataError(path, expected="a file", found="nothing at this path", remedy=remedy)


def read_records(
    path: str | Path,
    parse: Callable[[int, bytes], T],
    *,
    inside: str = "corpus.jsonl",
    on_error: OnError = "stop",
    report: Report | None = None,
) -> Iterator[T]:
    """`parse(line number, line)` of every line that is not blank.

    A `DataError` of `parse` stops the reading, or with `on_error="skip"` goes to `report`, and the
    line is left out. An error of the file as a whole (missing, empty, cut off) always stops.
    """
    if on_error not in ("stop", "skip"):
        raise ConfigError.unknown("on_error", on_error, ("stop", "skip"))
    check_file(path, inside)
    return _parsed(read_lines(path), parse, on_error, report)


def _parsed(
    lines: Iterator[tuple[int, bytes]],
    parse: Callable[[int, bytes], T],
    on_error: OnError,
    report: Report | None,
) -> Iterator[T]:
    for number, line in lines:
        try:
            record = parse(number, line)
        except DataError as error:
            if on_error == "stop":
                raise
            if report is not None:
                report(error)
            continue
        yield record


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes of the line) of every line that is not blank.

    A byte order mark is dropped. Compression is told by the first bytes.
    """
    name = display_name(path)
    number, blank = 0, True
    try:
        with _opened(path) as stream:
            for number, line in enumerate(_decompressed(stream, name), start=1):
                content = line.removeprefix(BOM) if number == 1 else line
                if content.strip():
                    blank = False
                    yield number, content
    except (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise DataError(
            name,
            number + 1,
            expected="a sound compressed file",
            found=f"damage or an early end ({error})",
            remedy="Make or fetch the file again.",
        ) from error
    except OSError as error:
        raise DataError(
            name,
            expected="a readable file",
            found=error.strerror or str(error),
            remedy="Check the path and its permissions.",
        ) from error
    if blank:
        raise DataError(
            name,
            expected="at least one line",
            found="an empty file",
            remedy="Check how the file was made.",
        )


class _StandardInput:
    """Standard input as a stream that is read here but not closed."""

    def __enter__(self) -> io.BufferedReader:
        binary = sys.stdin.buffer
        if isinstance(binary, io.BufferedReader):
            return binary
        return io.BufferedReader(cast(io.RawIOBase, binary))

    def __exit__(self, *_: object) -> None:
        return None


def _opened(path: str | Path) -> _StandardInput | io.BufferedReader:
    return _StandardInput() if str(path) == "-" else Path(path).open("rb")


def _decompressed(stream: io.BufferedReader, name: str) -> Iterator[bytes]:
    head = stream.peek(8)[:8]
    if head.startswith(GZIP):
        with closing(io.BufferedReader(gzip.GzipFile(fileobj=stream))) as lines:
            yield from lines
        return
    if ZSTD.match(head):
        yield from _split_lines(_zstd_blocks(stream))
        return
    for pattern, found, remedy in UNREADABLE:
        if re.match(pattern, head):
            raise DataError(name, expected="text, gzip or zstd", found=found, remedy=remedy)
    for suffix in COMPRESSED_SUFFIXES[1:]:
        if head and name.endswith(suffix):
            raise DataError(
                name,
                expected=f"compressed data, as the name ends with {suffix}",
                found=f"a file that begins with {head[:4]!r}",
                remedy=f"If it is plain text, rename it without {suffix}.",
            )
    yield from stream


def _zstd_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The decompressed bytes of all frames.

    Not `stream_reader`: that one takes a file that was cut off for a complete one.
    """
    frame = None
    while data := stream.read(READ_BYTES):
        while data:
            if frame is None:
                frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last zstd frame is not complete")


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for block in blocks:
        *complete, rest = block.split(b"\n")
        for line in complete:
            yield b"".join((*pending, line, b"\n"))
            pending.clear()
        if rest:
            pending.append(rest)
    if pending:
        yield b"".join(pending)


def decode_line(file: str, number: int, line: bytes) -> str:
    """The line as text; invalid UTF-8 is a `DataError`."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            file,
            number,
            expected="UTF-8",
            found=f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line",
            remedy="Convert the file, for example with iconv -f LATIN1 -t UTF-8.",
        ) from error


def parse_object(file: str, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object on a line, with finite numbers and text that UTF-8 can hold."""
    text = decode_line(file, number, line)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:  # only an escape can bring in half of a pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            file,
            number,
            expected="characters",
            found=f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}",
            remedy="Write the whole pair, or the character itself in UTF-8.",
        ) from error
    except (ValueError, RecursionError) as error:
        remedy = "Put one whole JSON object on each line."
        if text.lstrip().startswith("["):
            remedy = "A JSON array becomes lines with: jq -c '.[]' FILE."
        found = f"what JSON does not allow ({_told(error, text)})"
        raise DataError(file, number, expected="JSON", found=found, remedy=remedy) from error
    if not isinstance(value, dict):
        raise DataError(
            file,
            number,
            expected="a JSON object",
            found=json_type(value),
            remedy='Put one object on each line, as in {"_id": "1", "text": "..."}.',
        )
    return value


def _told(error: Exception, text: str) -> str:
    """The error by its place in the line: the line of the file is told already."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    place = min(error.pos, len(text.rstrip("\r\n"))) + 1
    return f"{error.msg.removesuffix(' at')} at character {place} of the line"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


def wrong_field(file: str, number: int, expected: str, found: str) -> DataError:
    """The error for a line that says something else than it should."""
    return DataError(file, number, expected=expected, found=found, remedy="Correct the line.")


def json_type(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")

"""Reading source files so that each fault names the file, the line or row, and what was expected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hire_model.data.importers.base import Notes
from hire_model.errors import DataError

_BOM = b"\xef\xbb\xbf"


def read_bytes(path: Path) -> bytes:
    """The file's bytes, or a DataError that says why not."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def read_lines(path: Path, notes: Notes) -> list[str]:
    """The lines of a UTF-8 text file. Only a line feed ends a line; a carriage return before it is taken off.

    Raises DataError for invalid UTF-8 and for empty lines, with the line's number.
    """
    data = read_bytes(path)
    if data.startswith(_BOM):
        notes.say(f"{path.name}: a byte order mark at the start was skipped.")
        data = data[len(_BOM) :]
    raw = data.split(b"\n")
    if not raw[-1]:
        raw.pop()
    returns = sum(line.endswith(b"\r") for line in raw)
    if returns:
        notes.say(f"{path.name}: {returns:,} lines end in CR LF; the CR was taken off.")
    lines = []
    for number, line in enumerate(raw, 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: line {number} is not UTF-8 (byte {line[error.start]:#04x} at {error.start}). "
                "Convert the file to UTF-8, for example with iconv."
            ) from error
        if not text.strip():
            raise DataError(
                f"{path}: line {number} of {len(raw)} is empty; every line must hold something. Remove the line, or "
                "if something is lost there, put it back."
            )
        lines.append(text)
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    return lines


def read_vocabulary(path: Path, notes: Notes) -> tuple[str, ...]:
    """One name per line, each once."""
    names = read_lines(path, notes)
    repeated(names, path, "name")
    return tuple(names)


def repeated(names: Sequence[str], path: Path, what: str) -> None:
    """Raise DataError where one of `names`, the lines of `path`, comes twice."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if name in seen:
            raise DataError(
                f"{path}: {what} '{name}' on line {number} is already on line {seen[name]}; each must come once."
            )
        seen[name] = number


def open_array(path: Path, kinds: str, shape: Sequence[int | None], meaning: str) -> np.ndarray:
    """Map an npy file from disk and check it.

    kinds: the dtype kinds that are right ("f" floating, "iu" integers); shape: sizes expected, None where any will do;
    meaning: what the array holds, in words, for the message.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected {meaning}.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{path}: not a whole npy file ({error}). Expected {meaning}. Copy the file again: it looks cut off or is "
            "of another kind."
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of several arrays. Expected one array, {meaning}.")
    check_array(array, str(path), kinds, shape, meaning)
    return array


def check_array(array: np.ndarray, where: str, kinds: str, shape: Sequence[int | None], meaning: str) -> None:
    """Raise DataError where `array` has another shape or kind of number than expected."""
    wanted = ", ".join("any" if n is None else str(n) for n in shape)
    if array.ndim != len(shape) or any(n is not None and n != have for n, have in zip(shape, array.shape, strict=True)):
        raise DataError(f"{where}: shape {list(array.shape)}. Expected [{wanted}], {meaning}.")
    if array.dtype.kind not in kinds:
        expected = "floating point numbers" if kinds == "f" else "integers" if kinds == "iu" else "numbers"
        hint = " Quantised features must be scaled back to floating point first." if kinds == "f" else ""
        raise DataError(f"{where}: dtype {array.dtype}. Expected {expected}, {meaning}.{hint}")


def parse_json(text: str | bytes, where: str) -> Any:
    """The JSON value in `text`; a DataError with place and column otherwise."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not JSON ({error}).") from error


def json_items(path: Path, block: int = 1 << 20) -> Iterator[tuple[str, Any]]:
    """(key or index, value) of each item of the one list or object that a JSON file holds, one item at a time.

    Graph files run to many gigabytes, which json.load would build up in memory as a whole.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _items(file, block, path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}). Expected JSON.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _items(file: TextIO, block: int, path: Path) -> Iterator[tuple[str, Any]]:
    buffer = file.read(block).lstrip()
    while not buffer and (more := file.read(block)):
        buffer = more.lstrip()
    if buffer[:1] not in ("[", "{"):
        raise DataError(f"{path}: expected JSON, one list or one object.")
    keyed, buffer, index = buffer[0] == "{", buffer[1:], 0
    while True:
        buffer = buffer.lstrip()
        if buffer.startswith("}" if keyed else "]"):
            return
        item = _item(buffer, keyed)
        if item:
            key, value, buffer = item
            yield (key if keyed else str(index)), value
            index += 1
            continue
        # doubling keeps the repeated attempts at a long item linear
        more = file.read(max(block, len(buffer))) if len(buffer) < _LONGEST_ITEM else ""
        if not more:
            raise DataError(f"{path}: not JSON, or cut off, after {index:,} whole items. Copy or write it again.")
        buffer += more


_LONGEST_ITEM = 1 << 28
_DECODER = json.JSONDecoder()


def _item(text: str, keyed: bool) -> tuple[str, Any, str] | None:
    """(key, value, the text after it) at the start of `text`, None if no whole item is there (yet).

    Whole only shows by what follows: the number 0 may go on as 0.5 in the next block.
    """
    key = ""
    try:
        if keyed:
            key, used = _DECODER.raw_decode(text)
            text = text[used:].lstrip()
            if not isinstance(key, str) or not text.startswith(":"):
                return None
            text = text[1:].lstrip()
        value, used = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        return None
    rest = text[used:].lstrip()
    if rest.startswith(","):
        return key, value, rest[1:]
    return (key, value, rest) if rest.startswith("}" if keyed else "]") else None

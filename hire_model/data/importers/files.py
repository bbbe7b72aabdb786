"""Reading source files so that each fault names the file, the line or row, and what was expected."""

from __future__ import annotations

import contextlib
import json
import re
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
        notes.add(f"{path.name}: a byte order mark at the start was skipped.")
        data = data[len(_BOM) :]
    raw = data.split(b"\n")
    if not raw[-1]:
        raw.pop()
    returns = sum(line.endswith(b"\r") for line in raw)
    if returns:
        notes.add(f"{path.name}: {returns:,} lines end in CR LF; the CR was taken off.")
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
    check_unique(names, path, "name")
    return tuple(names)


def check_unique(names: Sequence[str], path: Path, what: str, place: str = "on line", first: int = 1) -> None:
    """Raise DataError where one of `names`, by default the lines of `path`, comes twice; they count from `first`."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names, first):
        if name in seen:
            raise DataError(
                f"{path}: {what} '{name}' {place} {number} is already {place} {seen[name]}; each must come once."
            )
        seen[name] = number


@contextlib.contextmanager
def convert_errors(path: Path, kind: str, advice: str) -> Iterator[None]:
    """Make a DataError of whatever NumPy raises over a damaged file of `kind`; only reading belongs under it.

    One byte changed in a header may end in an error of ast, tokenize, mmap, zipfile or zlib, or a lack of memory.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: not a whole {kind} file ({str(error) or type(error).__name__}). {advice}") from error


def open_array(path: Path, kinds: str, shape: Sequence[int | None], meaning: str) -> np.ndarray:
    """Map an npy file from disk and check it.

    kinds: the dtype kinds that are right ("f" floating, "iu" integers); shape: sizes expected, None where any will do;
    meaning: what the array holds, in words, for the message.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected {meaning}.")
    advice = f"Expected {meaning}. Copy the file again: it looks cut off or is of another kind."
    with convert_errors(path, "npy", advice):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
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
    with _convert_decoding_errors(where):
        if isinstance(text, bytes):  # json.loads would let halves of characters pass
            text = text.decode(json.detect_encoding(text))
        value = json.loads(text)
        _check_characters(value, text, where)
    return value


@contextlib.contextmanager
def _convert_decoding_errors(where: str) -> Iterator[None]:
    """Make a DataError of what Python's decoders of UTF-8 and JSON raise."""
    try:
        yield
    except RecursionError as error:
        raise DataError(f"{where}: lists or objects nested too deeply. Expected a few levels of JSON.") from error
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}).") from error


_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


def _check_characters(value: Any, text: str, where: str) -> None:
    r"""Raise DataError where JSON `text` of that `value` escapes half a character: \ud83d without its pair."""
    at = _find_half(value) if _ESCAPED_HALF.search(text) else None
    if at is not None:
        raise DataError(
            f"{where}{at and ': '}{at.lstrip('.')}: half a character, a \\ud800 to \\udfff without its pair. Expected "
            "whole ones: the text was cut within a character. Put the other half back, or take this one out."
        )


def _find_half(value: Any) -> str | None:
    """Where a text with half a character lies within `value`, as .key[index]; None if nowhere."""
    if isinstance(value, str):
        return "" if _HALF.search(value) else None
    keyed = isinstance(value, dict)
    for key, inner in value.items() if keyed else enumerate(value) if isinstance(value, list) else ():
        at = _find_half(inner)
        if at is not None:
            return (f".{key}" if keyed else f"[{key}]") + at
    return None


def iterate_json(path: Path, block: int = 1 << 20) -> Iterator[tuple[str, Any]]:
    """(key or index, value) of each item of the one list or object that a JSON file holds, one item at a time.

    Graph files have many gigabytes, which json.load would hold in memory as a whole. ijson does not fit: its C backend
    replaces half characters without an error, and refuses NaN and integers beyond 64 bits, which we check ourselves.
    """
    try:
        with _convert_decoding_errors(str(path)), path.open(encoding="utf-8-sig") as file:
            yield from _iterate_items(file, block, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _iterate_items(file: TextIO, block: int, path: Path) -> Iterator[tuple[str, Any]]:
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
        item = _parse_item(buffer, keyed)
        if item:
            key, value, rest = item
            name = key if keyed else str(index)
            _check_characters(value, buffer[: len(buffer) - len(rest)], f"{path}: item {name}")
            buffer = rest
            yield name, value
            index += 1
            continue
        # doubling keeps the check_unique attempts at a long item linear
        more = file.read(max(block, len(buffer))) if len(buffer) < _LONGEST_ITEM else ""
        if not more:
            raise DataError(f"{path}: not JSON, or cut off, after {index:,} whole items. Copy or write it again.")
        buffer += more


_LONGEST_ITEM = 1 << 28
_DECODER = json.JSONDecoder()


def _parse_item(text: str, keyed: bool) -> tuple[str, Any, str] | None:
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

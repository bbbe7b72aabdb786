"""Read source files. Each error names the file, the line or row, and what was expected."""

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
    """Return the bytes of a file. Raise DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def read_lines(path: Path, notes: Notes) -> list[str]:
    """Return the lines of a UTF-8 text file. Only a line feed ends a line; a carriage return before it is removed.

    Raise DataError with the line number for invalid UTF-8 and for empty lines.
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
        notes.add(f"{path.name}: {returns:,} lines end in CR LF; the CR was removed.")
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
                f"{path}: line {number} of {len(raw)} is empty. Expected text on every line. Remove the line, or "
                "restore its text if it was lost."
            )
        lines.append(text)
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    return lines


def read_vocabulary(path: Path, notes: Notes) -> tuple[str, ...]:
    """Return the names in a file with one name per line. Raise DataError if a name is repeated."""
    names = read_lines(path, notes)
    check_unique(names, path, "name")
    return tuple(names)


def check_unique(names: Sequence[str], path: Path, what: str, place: str = "on line", first: int = 1) -> None:
    """Raise DataError if `names` repeats one. By default they are the lines of `path`, numbered from `first`."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names, first):
        if name in seen:
            raise DataError(
                f"{path}: {what} '{name}' {place} {number} is already {place} {seen[name]}. Expected each once."
            )
        seen[name] = number


@contextlib.contextmanager
def convert_errors(path: Path, kind: str, advice: str) -> Iterator[None]:
    """Convert any exception that NumPy raises for a damaged file of `kind` into a DataError. Use it only around reads.

    One changed byte in a header can cause an exception of ast, tokenize, mmap, zipfile or zlib, or a MemoryError.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: not a valid {kind} file ({str(error) or type(error).__name__}). {advice}") from error


def open_array(path: Path, kinds: str, shape: Sequence[int | None], meaning: str) -> np.ndarray:
    """Memory-map an npy file and check its type and shape.

    Args:
        path: the npy file
        kinds: allowed dtype kinds, "f" for floating point, "iu" for integers, "iuf" for all numbers
        shape: expected sizes, None for any size
        meaning: description of the array, for messages
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected {meaning}.")
    advice = f"Expected {meaning}. Copy the file again: it seems to be truncated or of another type."
    with convert_errors(path, "npy", advice):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of several arrays. Expected one array, {meaning}.")
    check_array(array, str(path), kinds, shape, meaning)
    return array


def check_array(array: np.ndarray, where: str, kinds: str, shape: Sequence[int | None], meaning: str) -> None:
    """Raise DataError unless `array` has the expected shape and dtype kind (see `open_array`)."""
    expected_shape = ", ".join("any" if n is None else str(n) for n in shape)
    if array.ndim != len(shape) or any(n not in (None, size) for n, size in zip(shape, array.shape, strict=True)):
        raise DataError(f"{where}: shape {list(array.shape)}. Expected [{expected_shape}], {meaning}.")
    if array.dtype.kind not in kinds:
        expected = "floating point numbers" if kinds == "f" else "integers" if kinds == "iu" else "numbers"
        hint = " Convert quantised features to floating point first." if kinds == "f" else ""
        raise DataError(f"{where}: dtype {array.dtype}. Expected {expected}, {meaning}.{hint}")


def parse_json(text: str | bytes, where: str) -> Any:
    """Return the JSON value in `text`. Raise DataError with the place if it is not valid JSON."""
    with _convert_decoding_errors(where):
        if isinstance(text, bytes):  # json.loads would accept lone surrogates
            text = text.decode(json.detect_encoding(text))
        value = json.loads(text)
        _check_characters(value, text, where)
    return value


@contextlib.contextmanager
def _convert_decoding_errors(where: str) -> Iterator[None]:
    """Convert exceptions of Python's UTF-8 and JSON decoders into a DataError."""
    try:
        yield
    except RecursionError as error:
        raise DataError(f"{where}: lists or objects nested too deeply. Expected a few levels of JSON.") from error
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}).") from error


_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_characters(value: Any, text: str, where: str) -> None:
    r"""Raise DataError if the JSON `text` of `value` has a lone surrogate: an escape like \ud83d without its pair."""
    path = _find_surrogate(value) if _ESCAPED_SURROGATE.search(text) else None
    if path is not None:
        raise DataError(
            f"{where}{path and ': '}{path.lstrip('.')}: half a character, a \\ud800 to \\udfff without its pair: the "
            "text was cut within a character. Expected complete characters. Restore the other half, or remove this one."
        )


def _find_surrogate(value: Any) -> str | None:
    """Return the path (.key[index]) of the first string in `value` with a lone surrogate, None without one."""
    if isinstance(value, str):
        return "" if _SURROGATE.search(value) else None
    keyed = isinstance(value, dict)
    for key, inner in value.items() if keyed else enumerate(value) if isinstance(value, list) else ():
        path = _find_surrogate(inner)
        if path is not None:
            return (f".{key}" if keyed else f"[{key}]") + path
    return None


def iterate_json(path: Path, block: int = 1 << 20) -> Iterator[tuple[str, Any]]:
    """Yield (key or index, value) of each item of a JSON file that holds one list or object.

    Scene graph files have many gigabytes; json.load would load them as a whole. ijson does not fit: its C backend
    replaces lone surrogates without an error, and rejects NaN and integers beyond 64 bits, which we check ourselves.
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
        raise DataError(f"{path}: not JSON. Expected one list or one object.")
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
        # Doubling the block keeps the total cost of repeated attempts at a long item linear.
        more = file.read(max(block, len(buffer))) if len(buffer) < _LONGEST_ITEM else ""
        if not more:
            raise DataError(f"{path}: not JSON, or truncated, after {index:,} complete items. Copy or write it again.")
        buffer += more


_LONGEST_ITEM = 1 << 28
_DECODER = json.JSONDecoder()


def _parse_item(text: str, keyed: bool) -> tuple[str, Any, str] | None:
    """Return (key, value, following text) of the item at the start of `text`, None if the item is not complete yet.

    Only the following character shows that an item is complete: the number 0 may continue as 0.5 in the next block.
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

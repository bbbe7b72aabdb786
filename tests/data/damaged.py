"""Files with one thing wrong in them."""

from __future__ import annotations


def npy_header(shape: str) -> bytes:
    """The start of an npy file of float32, whose shape reads as given."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"

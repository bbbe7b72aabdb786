"""Files with one fault each."""

from __future__ import annotations


def make_npy_header(shape: str) -> bytes:
    """Return the header of a float32 npy file whose shape field has the text `shape`."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"

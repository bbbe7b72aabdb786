"""Compile the C++ kernel once per machine and load it. Without a compiler, `load` returns None."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

log = logging.getLogger(__name__)
SWITCH = "HIRE_FUSED"
"""Environment variable: 0 scores with torch, 1 (default) with the compiled kernel where it can."""

_FOLDER = Path(__file__).parent
_SOURCES = (
    "vector.h", "product.h", "dropout.h", "sides.h", "attention.h", "match.h", "stages.h",
    "gradients.h", "match_backward.h", "attention_backward.h", "backward.h", "kernel.cpp",
)  # fmt: skip
# -ffinite-math-only lets the compiler use the processor's maximum. The other flags drop bookkeeping that nobody reads.
# None of them changes the floating-point mode of the process, as -ffast-math would.
_FLAGS = (
    "-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread",
    "-ffinite-math-only", "-fno-signed-zeros", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip
# By `torch.backends.cpu.get_cpu_capability()`. Other processors (NEON) need no flags.
LEVELS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
    "DEFAULT": (),
}
_SECONDS = 600  # a busy machine is slow
OUT_OF_RANGE = 2  # result of `hire_score` if the index of a pair is wrong


class Items(ctypes.Structure):
    """`hire::Items`."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "mask", "related", "shares")] + [
        (name, ctypes.c_int64) for name in ("count", "longest")
    ]


class Pass(ctypes.Structure):
    """`hire::Pass`."""

    _fields_ = [
        ("keys", ctypes.c_void_p), ("keys_bias", ctypes.c_void_p),
        ("first", ctypes.c_void_p), ("first_bias", ctypes.c_void_p),
        ("second", ctypes.c_void_p), ("second_bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p), ("scale_bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p), ("out_bias", ctypes.c_void_p),
        ("max_weight", ctypes.c_void_p), ("temperature", ctypes.c_float),
    ]  # fmt: skip


class Model(ctypes.Structure):
    """`hire::Model`."""

    _fields_ = [
        ("size", ctypes.c_int32), ("kinds", ctypes.c_int32), ("role", ctypes.c_int32), ("parts", ctypes.c_int32),
        ("alignment", ctypes.c_int32), ("sharpness", ctypes.c_float), ("related_share", ctypes.c_float),
        ("on_words", Pass), ("on_regions", Pass),
    ]  # fmt: skip


class Dropout(ctypes.Structure):
    """`hire::Dropout`."""

    _fields_ = [("seed", ctypes.c_int64), ("rate", ctypes.c_int32)]


class Training(ctypes.Structure):
    """`hire::Training`."""

    _fields_ = [
        ("dropout", Dropout),
        ("first", ctypes.c_void_p), ("second", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("out", ctypes.c_void_p),
        ("pooled", ctypes.c_void_p), ("raised", ctypes.c_void_p), ("related", ctypes.c_void_p),
        ("items", ctypes.c_int64), ("panels", ctypes.c_int64),
    ]  # fmt: skip


class Gradients(ctypes.Structure):
    """`hire::Gradients`."""

    _fields_ = [
        (name, ctypes.c_void_p) for name in (
            "directions", "keys", "summary", "gram", "lengths", "edges",
            "x", "weights", "products",
            "first", "first_bias", "second", "second_bias", "scale", "scale_bias", "out", "out_bias",
            "max_weight", "sharpness",
        )
    ]  # fmt: skip


class Kernel:
    """The loaded library: its functions, and the sizes that weights are packed for."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        sizes = (ctypes.c_int32 * 3)()
        library.hire_layout(sizes)
        self.block, self.panel, self.padding = sizes
        self.score = library.hire_score
        pointers = [ctypes.c_void_p] * 3
        self.score.argtypes = [
            ctypes.POINTER(Model), ctypes.POINTER(Items), ctypes.POINTER(Items), ctypes.c_int64, *pointers,
            ctypes.c_int32,
        ]  # fmt: skip
        self.score.restype = ctypes.c_int
        items = ctypes.POINTER(Items)
        one_pass: list[Any] = [ctypes.POINTER(Model), ctypes.c_int32, items, items, ctypes.POINTER(Training)]
        self.score_pass = library.hire_score_pass
        self.score_pass.argtypes = [*one_pass, ctypes.c_void_p, ctypes.c_int32]
        self.find_gradients = library.hire_find_gradients
        self.find_gradients.argtypes = [*one_pass, ctypes.c_void_p, ctypes.POINTER(Gradients), ctypes.c_int32]
        self.count_panels = library.hire_count_panels
        self.count_panels.argtypes, self.count_panels.restype = one_pass[:3], ctypes.c_int64
        self.score_pass.restype = self.find_gradients.restype = ctypes.c_int
        self.draw_dropped = library.hire_draw_dropped
        self.draw_dropped.argtypes = [ctypes.POINTER(Dropout), *[ctypes.c_int64] * 4, ctypes.c_void_p]
        self.draw_dropped.restype = None
        self.multiply = library.hire_multiply
        self.multiply.argtypes, self.multiply.restype = [ctypes.c_int32, ctypes.c_int64], ctypes.c_double


def load() -> Kernel | None:
    """Return the kernel for this processor, compiled at the first call; None if that is not possible or disabled."""
    return _load() if os.environ.get(SWITCH, "1") != "0" else None


@functools.cache
def _load() -> Kernel | None:
    try:
        return Kernel(compile_kernel(torch.backends.cpu.get_cpu_capability()))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        log.debug("Scores are computed with torch, because the compiled kernel is not available: %s", detail)
        return None


def compile_kernel(level: str) -> Path:
    """Return the library for an instruction set, one of `LEVELS`; compile it if its file does not exist.

    The file lies in `__pycache__`, next to the compiled Python files. Its name has a digest of sources, compiler and
    flags, so a library of other sources is never loaded.

    Raises:
        OSError: if there is no compiler, or the folder is not writable.
        subprocess.SubprocessError: if the compiler fails.
    """
    flags = (*_FLAGS, *LEVELS.get(level, ()))
    digest = hashlib.sha256(" ".join(flags).encode())
    for name in _SOURCES:
        digest.update((_FOLDER / name).read_bytes())
    cached = Path(importlib.util.cache_from_source(str(_FOLDER / "kernel.py")))
    path = cached.with_name(f"kernel-{level.lower()}-{digest.hexdigest()[:16]}.so")
    if path.exists():
        return path
    compiler = _find_compiler()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():  # another process may have compiled it meanwhile
            log.info("Compiling the scoring kernel for this processor (once, about ten seconds) ...")
            part = path.with_suffix(".part")
            command = [*compiler, *flags, str(_FOLDER / "kernel.cpp"), "-o", str(part)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
            part.replace(path)
    return path


def _find_compiler() -> list[str]:
    """Return the command in CXX, or the first of c++, g++ and clang++ on the path. Raise OSError if there is none."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        return chosen
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise FileNotFoundError("no C++ compiler on the path (c++, g++, clang++)")

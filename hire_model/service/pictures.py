"""The pictures of requests: limits, extraction, and a cache by the digest of the file."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from threading import Lock

import pybase64
from cachetools import LRUCache

from hire_model.data.images.pictures import DecodeLimits, PictureError
from hire_model.errors import HireError
from hire_model.model import artifact
from hire_model.scoring.pictures import NO_EXTRACTOR, PictureReader, ReadPicture
from hire_model.service.contract import RequestFault

log = logging.getLogger(__name__)
FORMATS = ("JPEG", "PNG", "WEBP")
_SCANS = 20  # a progressive JPEG has about 10. Bounds the time where CPU time cannot be limited: not in the main thread
_CACHE_BYTES = 64 << 20  # about 500 pictures with 30 regions of 2048 float16 numbers
_INSTEAD = 'Send the regions of the picture ({"features": ..., "boxes": ...}) or a gallery image'


def open_reader(folder: Path) -> PictureReader | str:
    """Open what reads pictures for the model in `folder`, or return for clients why they cannot be read."""
    if artifact.read_extractor(folder) is None:
        return NO_EXTRACTOR
    try:
        return PictureReader.load(folder)
    except HireError as error:
        log.warning("Requests with pictures are refused: %s", error)
        return "this server cannot make the regions and relations of pictures; its log has the reason"


class Pictures:
    """Reads the pictures of requests, one at a time, which bounds the memory. Thread-safe.

    Args:
        reader: the extractor, or the reason why there is none.
        most_bytes: of a picture file.
        most_pixels: of a picture.
    """

    def __init__(self, reader: PictureReader | str, most_bytes: int, most_pixels: int) -> None:
        self.reader, self.most_bytes, self.most_pixels = reader, most_bytes, most_pixels
        self._lock = Lock()
        self._read: LRUCache[bytes, ReadPicture] = LRUCache(_CACHE_BYTES, getsizeof=_count_bytes)

    @property
    def accepted(self) -> bool:
        """Whether pictures can be read."""
        return not isinstance(self.reader, str)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class ids of read pictures."""
        return () if isinstance(self.reader, str) else self.reader.classes

    def read_base64(self, data: str, path: str, end: float) -> ReadPicture:
        """Return the regions of a picture whose file is given as base64; see `read`."""
        self._find_reader(path)
        if len(data) * 3 // 4 > self.most_bytes + 2:  # padding
            raise self._refuse_size(len(data) * 3 // 4, path)
        try:
            content = pybase64.b64decode(data, validate=True)
        except ValueError as error:  # includes binascii.Error
            hint = " Leave out 'data:...;base64,'." if data.startswith("data:") else ""
            raise RequestFault(400, path, f"not base64: {error}.{hint}") from error
        return self.read(content, path, end)

    def read(self, content: bytes | bytearray, path: str, end: float) -> ReadPicture:
        """Return the regions of a picture.

        Args:
            content: a JPEG, PNG or WebP file.
            path: JSON path of the picture in the request.
            end: value of `time.thread_time` when the time of the request is over.

        Raises:
            RequestFault: 400 the model has no extractor, or the picture cannot be used; 413 the file or the time that
                the pictures of the request take is over its limit.
        """
        reader = self._find_reader(path)
        if len(content) > self.most_bytes:
            raise self._refuse_size(len(content), path)
        digest = hashlib.sha256(content).digest()
        with self._lock:
            if (known := self._read.get(digest)) is not None:
                return known
            seconds = end - time.thread_time()
            if seconds <= 0:
                raise RequestFault(413, path, "the pictures of this request take too long; send fewer at a time.")
            limits = DecodeLimits(FORMATS, self.most_pixels, _SCANS, max(round(seconds, 1), 0.1))
            try:
                picture = reader.read(bytes(content), limits)
            except PictureError as error:
                raise RequestFault(400, path, f"{error}.") from error
            if _count_bytes(picture) <= self._read.maxsize:
                self._read[digest] = picture
            return picture

    def _find_reader(self, path: str) -> PictureReader:
        if isinstance(self.reader, str):
            raise RequestFault(400, path, f"{self.reader}. {_INSTEAD}.")
        return self.reader

    def _refuse_size(self, size: int, path: str) -> RequestFault:
        return RequestFault(
            413, path, f"a file of {size:,} bytes; this server accepts pictures of at most {self.most_bytes:,}."
        )


def _count_bytes(picture: ReadPicture) -> int:
    return picture.regions.features.nbytes

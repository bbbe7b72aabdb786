"""Generate hostile requests: a handwritten corpus, randomly mutated good requests, and schemathesis on openapi.json.

The inputs depend on the seed alone, so input 1234 is the same in every run.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from serving.contract import EXPLANATIONS, OPENAPI, PREDICTIONS

JSON_TYPE = ("Content-Type", "application/json")
HUGE = 10**400
DEEP = 2_000
VALUES: list[Any] = [
    None, True, False, 0, -0.0, -1, 1, 2**31, 2**63, -(2**63) - 1, HUGE, 1e308, float("nan"), float("inf"), 0.5,
    "", " ",
    "0", "NaN", "null", "\x00", "\ud800", "\udfff x", "a" * 2_001, "é" * 1_999, "\u202e\u0000\uffff",
    "../../etc/passwd", "..", "scenes/../scenes", "file:///etc/passwd", "%00", "${jndi:ldap://127.0.0.1/a}", "{{7*7}}",
    "'; DROP TABLE a;--",
    [], {}, [[]], [None], {"": None}, [0] * 1_000, ["a"] * 300, {"$ref": "#"}, {"__class__": "x"}, [1, 2],
    [2**40, 2**40],
    [1, -1], [0, 0], [1.0, 2.0], [3, 1_000_000_000], {"gallery": "scenes"}, {"gallery": "scenes", "id": "\ud800"},
    {"gallery": "..", "id": "x"}, {"gallery": "scenes", "id": 0}, {"b64": "aGVsbG8="},
    "data:image/png;base64,iVBORw0KGgo=",
]  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """A request. `label` describes what is wrong with it."""

    label: str
    body: bytes
    path: str = PREDICTIONS
    headers: tuple[tuple[str, str], ...] = (JSON_TYPE,)

    @property
    def is_plain(self) -> bool:
        """Whether it reaches `Service` unchanged, so that every server must answer as `Service` does."""
        return self.headers == (JSON_TYPE,) and self.path in (PREDICTIONS, EXPLANATIONS)

    @property
    def is_form(self) -> bool:
        """Whether TorchServe decodes it as a form. It answers 500 to some forms; the proxy refuses all of them."""
        return any(value.startswith(("application/x-www-form", "multipart/")) for _, value in self.headers)


def generate_inputs(pair: dict[str, Any], count: int, seed: int = 0) -> Iterator[Hostile]:
    """Yield `count` hostile requests: first the corpus, then mutated requests, with every fifth from the schema.

    Args:
        pair: A good {"image": regions, "text": sentence}. The server must have the image in its gallery 'scenes'.
        count: Number of requests.
        seed: Seed of the random requests.
    """
    remaining = count
    for hostile in islice(generate_corpus(pair), count):
        yield hostile
        remaining -= 1
    if not remaining:
        return
    by_schema = iter(generate_from_schema(remaining // 5, seed))
    rng = random.Random(seed)
    for number in range(remaining):
        generated = next(by_schema, None) if number % 5 == 0 else None
        yield generated or mutate_request(rng, pair, number)


def generate_corpus(pair: dict[str, Any]) -> Iterator[Hostile]:
    """Yield the handwritten requests: hostile bodies for both paths, then hostile headers, forms and paths."""
    for path in (PREDICTIONS, EXPLANATIONS):
        for label, body in _generate_bodies(pair):
            yield Hostile(label, body, path)
    yield from _generate_http(json.dumps({"pairs": [pair]}).encode())


def _generate_bodies(pair: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    text = json.dumps({"pairs": [pair]})
    for bare in (*"0{}", "", " ", "null", "true", "-0", "1e999", "NaN", "[]", "{}", '"a"', "\x00", "{'a': 1}", "//"):
        yield f"body {bare!r}", bare.encode()
    yield "UTF-16", text.encode("utf-16")
    yield "byte order mark", b"\xef\xbb\xbf" + text.encode()
    yield "not UTF-8", text.replace('"text": "', '"text": "\udcff').encode("utf-8", "surrogateescape")
    yield "an encoded surrogate", text.replace('"text": "', '"text": "\ud800').encode("utf-8", "surrogatepass")
    yield "JSON and more JSON", text.encode() + b"{}"
    yield "JSON cut off", text.encode()[:-9]
    yield "a JPEG", b"\xff\xd8\xff\xe0" + bytes(2_000)
    yield "a pickle", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93."
    for opening, closing in (("[", "]"), ('{"a":', "}"), ('{"pairs":[', "]}"), ('{"pairs":[{"image":', "}]}")):
        yield f"{DEEP} deep {opening}", (opening * DEEP + "1" + closing * DEEP).encode()
        yield f"endless {opening}", (opening * 200_000).encode()
    yield "a key twice", b'{"pairs": [], ' + text.encode()[1:]
    yield "a key twice, the good one first", text.encode()[:-1] + b', "pairs": []}'
    yield "eight million zeros", b'{"pairs": [' + b"0," * 8_000_000 + b"0]}"
    yield "half a million zeros", b'{"pairs": [' + b"0," * 499_000 + b"0]}"
    for keys in (49_000, 1_000_000):
        yield f"{keys} keys", b'{"pairs": [{' + b",".join(b'"%d":0' % number for number in range(keys)) + b"}]}"
    long = {"image": {"gallery": "scenes", "id": "a" * 16_000_000}, "text": "a"}
    yield "an id of 16 MB", json.dumps({"pairs": [long]}).encode()
    key = b"k" * 16_777_000
    yield "an unknown key of 16 MB", b'{"gallery": "scenes", "texts": ["a"], "' + key + b'": 1}'
    yield (
        "an unknown key of 16 MB in a pair",
        b'{"pairs": [{"image": {"gallery": "scenes", "id": "0"}, "text": "a", "' + key + b'": 1}]}',
    )
    yield "a number of 16 million digits", b'{"pairs": [' + b"9" * 16_000_000 + b"]}"
    yield "a text of a million", json.dumps({"pairs": [pair | {"text": "a " * 500_000}]}).encode()
    yield "a word of 1,999 letters", json.dumps({"pairs": [pair | {"text": "x" * 1_999}]}).encode()
    yield "100,000 texts", json.dumps({"gallery": "scenes", "texts": ["a"] * 100_000}).encode()
    stored = [{"gallery": "scenes", "id": "0"}] * 60_000
    yield "3.6 billion pairs", json.dumps({"images": stored, "texts": ["a"] * 60_000}).encode()
    yield "65 images", json.dumps({"images": [pair["image"]] * 65, "texts": ["a"]}).encode()
    yield "both queries", json.dumps({"gallery": "scenes", "texts": ["a"], "images": [pair["image"]]}).encode()
    for shape in ([2**31, 2**31], [1, 10**12], [10**100, 1], [0, 8], [-1, -8], [1], [1, 1, 1], "1x1", [1.5, 2]):
        yield f"shape {shape}", _encode_pair(pair, features=pair["image"]["features"] | {"shape": shape})
    for dtype in ("float64", "object", "|O", "int8", "", None, 0):
        yield f"dtype {dtype}", _encode_pair(pair, features=pair["image"]["features"] | {"dtype": dtype})
    for number in (np.nan, np.inf, np.finfo("f4").max, 1e30, 1e19):
        filled = _fill_features(pair["image"]["features"], number)
        yield f"features {number}", _encode_pair(pair, features=filled)
        search = {"gallery": "scenes", "images": [{"features": filled}]}
        yield f"search by features {number}", json.dumps(search).encode()
    yield "base64 with spaces", _encode_pair(pair, features=pair["image"]["features"] | {"data": " AA =" * 9})
    yield "relations to a missing region", _encode_pair(pair, relations=[[0, 0, 99, 0.5]])
    yield "an unknown predicate", _encode_pair(pair, relations=[[0, 2**31 - 1, 0, 0.5]])
    yield "100,000 relations", _encode_pair(pair, relations=[[0, 0, 0, 0.5]] * 100_000)


def _encode_pair(pair: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"pairs": [pair | {"image": pair["image"] | fields}]}).encode()


def _fill_features(features: dict[str, Any], number: float) -> dict[str, Any]:
    raw = np.full(features["shape"], number, "<f4").tobytes()
    return {"dtype": "float32", "shape": features["shape"], "data": base64.b64encode(raw).decode()}


def _generate_http(good: bytes) -> Iterator[Hostile]:
    for kind in ("text/plain", "application/xml", "application/x-pickle", "image/jpeg", "",
                 "application/json; charset=utf-16", "application/x-www-form-urlencoded", "multipart/form-data",
                 "multipart/form-data; boundary=x"):  # fmt: skip
        yield Hostile(f"content type {kind!r}", good, headers=(("Content-Type", kind),))
    form = (("Content-Type", "application/x-www-form-urlencoded"),)
    for body in (b"body=%7B%7D", b"data=a&body=b&model_name=x", b"&" * 10_000, b"a=" * 5_000, b"%" * 1_000, b"=%ZZ"):
        yield Hostile(f"form {body[:20]!r}", body, headers=form)
    part = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    for name, more, content in ((b"body", b"", good), (b"data", b'; filename="../../a"', good), (b"", b"", b""),
                                (b"body", b"\r\nContent-Transfer-Encoding: nonsense", good)):  # fmt: skip
        for end in (b"--x--\r\n", b"", b"--x"):
            body = part % (name, more, content) + end
            yield Hostile("multipart", body, headers=(("Content-Type", "multipart/form-data; boundary=x"),))
    bomb = _compress(b'{"pairs": [' + b" " * 50_000_000 + b"]}")
    for encoding, body in (("gzip", _compress(good)), ("gzip", bomb), ("gzip", good), ("deflate", zlib.compress(good)),
                           ("br", good), ("nonsense", good), ("gzip, gzip", _compress(_compress(good)))):  # fmt: skip
        yield Hostile(f"content encoding {encoding}", body, headers=(JSON_TYPE, ("Content-Encoding", encoding)))
    for path in ("/predictions/hire/99", "/predictions/hire/x", "/predictions/hire/-1", "/predictions/nobody",
                 "/predictions/hire/..%2f..%2fetc", "/predictions/%00", "/predictions/hire?body=1&data=2",
                 "/explanations/hire?explain=False", "/models", "/models?url=file:///etc/passwd", "/workflows",
                 "/wfpredict/a", "/api-description", "/" + "a" * 3_000, "//", "/predictions"):  # fmt: skip
        yield Hostile(f"path {path[:40]}", good, path)
    for name, value in (("explain", "True"), ("X-" + "a" * 1_000, "b"), ("Cookie", "a" * 5_000),
                        ("ts_request_sequence_id", "1"),
                        ("Accept", "image/png"), ("Range", "bytes=0-1"), ("Upgrade", "h2c")):  # fmt: skip
        yield Hostile(f"header {name[:20]}", good, headers=(JSON_TYPE, (name, value)))


def _compress(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def mutate_request(rng: random.Random, pair: dict[str, Any], number: int) -> Hostile:
    """Return a good request with one or two mutations: a value or key replaced, removed or added, or bytes damaged."""
    image, stored = pair["image"], {"gallery": "scenes", "id": "0"}
    request: dict[str, Any] = copy.deepcopy(
        rng.choice([
            {"pairs": [pair, pair]}, {"pairs": [{"image": stored, "text": "a"}]},
            {"gallery": "scenes", "texts": ["a dog"]},
            {"images": [image], "texts": ["a", "b"], "top_k": 1, "rank": "texts"},
            {"gallery": "scenes", "images": [image], "top_k": 2, "shortlist": 4},
        ])
    )  # fmt: skip
    for _ in range(rng.randint(1, 2)):
        _mutate_value(rng, request)
    body = json.dumps(request, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        body = _damage_bytes(rng, body)
    return Hostile(f"mutated request {number}", body, rng.choice([PREDICTIONS, PREDICTIONS, EXPLANATIONS]))


def _mutate_value(rng: random.Random, request: Any) -> None:
    """Choose a random place in the request, and replace, remove or add a value."""
    node = request
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.8:
            node = child
            continue
        action = rng.random()
        if action < 0.7:
            node[key] = copy.deepcopy(rng.choice(VALUES))
        elif action < 0.85:
            del node[key]
        elif isinstance(node, dict):
            added = rng.choice(["", "image", "texts", "features", "\x00", "__proto__", "a" * 500])
            node[added] = rng.choice(VALUES)
        else:
            node.extend(copy.deepcopy(node) * rng.choice([1, 3, 40]))
        return


def _damage_bytes(rng: random.Random, body: bytes) -> bytes:
    position = rng.randrange(len(body) or 1)
    action = rng.random()
    if action < 0.4:
        return body[:position]
    if action < 0.7:
        return body[:position] + rng.randbytes(rng.randint(1, 4)) + body[position + 1 :]
    return body[:position] + body[rng.randrange(len(body) or 1) :]


def generate_from_schema(count: int, seed: int) -> list[Hostile]:
    """Return `count` bodies that schemathesis generates from openapi.json, valid and invalid ones."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as set_seed
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_dict(json.loads(OPENAPI.read_text("utf-8")))
    generated: list[Hostile] = []
    cases = [(path, mode) for path in (PREDICTIONS, EXPLANATIONS) for mode in GenerationMode]
    for path, mode in cases:

        def collect(case: Any) -> None:
            body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
            generated.append(Hostile(f"schemathesis, {mode.name.lower()}", body, path))  # noqa: B023  called in this turn

        generation = settings(
            max_examples=count // len(cases) + 1, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        strategy = schema[path]["POST"].as_strategy(generation_mode=mode)
        set_seed(seed)(generation(given(case=strategy)(collect)))()
    return generated[:: max(1, len(generated) // count)][:count] if count else []

"""The server of `hire demo`: access control, facts of the gallery, and the same answers as the service."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from demo_examples import Example, make_example, make_picture_example, save_untrained_model
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.errors import HireError
from hire_model.service.parsing import Request
from serving import demo

TOKEN = "T0ken-_"
BASE = f"http://127.0.0.1/{TOKEN}"
ADDRESSES = ["", "page/page.js", "gallery", "image?id=train-000000", "picture?id=train-000000"]
few_examples = hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def example(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(tmp_path_factory.mktemp("demo"), tiny_dataset)


@pytest.fixture(scope="module")
def client(example: Example) -> Iterator[TestClient]:
    """A client that sends the token with each request."""
    with TestClient(demo.build_app(example.service, example.gallery, TOKEN), base_url=BASE) as client:
        yield client


def test_the_page_and_its_files_are_served(client: TestClient) -> None:
    assert "<h1>hire</h1>" in client.get("/").text
    content_types = {"css": "text/css", "js": "javascript"}
    for name in demo.FILES:
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200 and content_types[name.rpartition(".")[2]] in answer.headers["content-type"]


def test_every_file_of_the_page_folder_is_listed() -> None:
    assert {path.name for path in demo.PAGE.iterdir()} == {"index.html", *demo.FILES}


def test_the_page_has_no_inline_code_and_no_foreign_addresses() -> None:
    for path in demo.PAGE.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|\bsrc=\"//|innerHTML|insertAdjacentHTML|\beval\(", text), path.name
    page = (demo.PAGE / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page)


@pytest.mark.parametrize("path", [*ADDRESSES, "page/none.js", "predictions/hire", "missing"])
def test_each_answer_has_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(f"/{path}").headers
    assert "default-src 'none'" in headers["content-security-policy"] and "unsafe" not in str(headers)
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("token", ["", "t0ken-_", "T0ken-", "%C3%BC", "%ED%A0%80", "..", "%2e%2e", "x" * 9000])
def test_every_address_is_404_without_the_token(client: TestClient, path: str, token: str) -> None:
    assert client.get(f"http://127.0.0.1/{token}/{path}").status_code == 404
    assert client.post(f"http://127.0.0.1/{token}/predictions/hire", content=b"{}").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "0.0.0.0"])
def test_another_host_header_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/gallery", headers={"Host": host}).status_code == 400
    assert client.get("/gallery", headers={"Host": "localhost:8090"}).status_code == 200


def test_methods_that_change_something_are_refused(client: TestClient) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        for path in [*ADDRESSES, "predictions/hire", "explanations/hire"]:
            assert client.request(method, f"/{path}").status_code == 405
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_answers_equal_those_of_the_service(client: TestClient, example: Example) -> None:
    image = {"gallery": demo.GALLERY, "id": str(example.gallery.ids[3])}
    pairs = {"pairs": [{"image": image, "text": "a man rides a horse"}]}
    for path, request, explain in [
        ("predictions/hire", {"gallery": demo.GALLERY, "texts": ["a dog"], "top_k": 12}, False),
        ("predictions/hire", {"gallery": demo.GALLERY, "images": [image], "top_k": 3}, False),
        ("predictions/hire", pairs, False),
        ("explanations/hire", pairs, True),
    ]:
        answer = client.post(f"/{path}", json=request)
        [reply], _ = example.service.answer([Request(json.dumps(request), explain)])
        assert answer.status_code == reply.status == 200 and answer.json() == json.loads(reply.body)


def test_the_facts_of_the_gallery_are_returned(client: TestClient, example: Example) -> None:
    facts = client.get("/gallery").json()
    assert facts["size"] == len(example.gallery) == 40 and facts["captions"]
    assert len(set(facts["sample"])) == demo.SAMPLE and set(facts["sample"]) <= set(example.gallery.ids.tolist())


def test_the_facts_of_every_image_are_returned(client: TestClient, example: Example) -> None:
    gallery = example.gallery
    for row in range(len(gallery)):
        facts, layout = client.get("/image", params={"id": gallery.ids[row]}).json(), gallery.layout(row)
        names = gallery.manifest.data
        assert facts["boxes"] == [pytest.approx(box.tolist()) for box in layout.boxes]
        assert facts["classes"] == [names.classes[number] for number in layout.classes]
        edges = [
            [edge["subject"], names.predicates.index(edge["predicate"]), edge["object"]] for edge in facts["relations"]
        ]
        assert edges == layout.relations.tolist() and facts["picture"]
        assert [facts["width"], facts["height"]] == list(gallery.size(row))


def test_a_picture_is_returned_unchanged(client: TestClient, example: Example) -> None:
    answer = client.get("/picture", params={"id": example.gallery.ids[0]})
    path = example.gallery.picture(0)
    assert path and answer.content == path.read_bytes() and answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "id_",
    [
        "",
        "../manifest.json",
        "../../../../etc/passwd",
        "/etc/passwd",
        "%2e%2e%2fmanifest.json",
        "train-000000.png",
        "\0",
        "train-000000/../train-000001a",
        "x" * 60_000,
        "-1",
        "0",
    ],
)
def test_an_id_that_is_not_in_the_gallery_is_404(client: TestClient, id_: str) -> None:
    for path in ("picture", "image"):
        assert client.get(f"/{path}?id={quote(id_)}").status_code == 404
    assert client.get("/picture").status_code == 422


@pytest.mark.parametrize(
    "path", ["page/../demo.py", "page/..%2fdemo.py", "page/%2e%2e/cli.py", "page/index.html/..", "page//etc/passwd"]
)
def test_a_file_outside_the_page_folder_is_404(client: TestClient, path: str) -> None:
    assert client.get(f"/{path}").status_code == 404


def test_a_picture_outside_the_picture_folder_is_not_served(
    example: Example, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gallery = example.gallery
    outside = tmp_path / "private.png"
    outside.write_bytes(b"secret")
    inside = gallery.picture_folder(0)
    assert demo.find_picture(gallery, 0) is not None
    for path in (
        inside / outside,
        inside / ".." / "manifest.json",
        inside / ".." / ".." / "private.png",
        inside / "a.html",
    ):
        monkeypatch.setattr(gallery, "picture", lambda row, path=path: path)
        assert demo.find_picture(gallery, 0) is None


@given(id_=st.text(max_size=30))
@few_examples
def test_any_text_as_id_is_404(client: TestClient, id_: str) -> None:
    answer = client.get(f"/image?id={quote(id_.encode(errors='surrogatepass'))}")
    assert answer.status_code == 404


@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["gallery", "texts", "top_k", "pairs", "images", "rank"]), inner, max_size=4
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@few_examples
def test_any_body_is_answered_with_an_error_message(client: TestClient, body: bytes) -> None:
    for path in ("predictions", "explanations"):
        answer = client.post(f"/{path}/hire", content=body)
        assert answer.status_code in (400, 404, 413) and answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"gallery": "gallery", "texts": ["' + b"a" * 2001 + b'"]}', 413, "2001 characters"),
        (b'{"gallery": "gallery", "texts": [""]}', 400, "at least 1 character"),
        (b'{"gallery": "gallery", "texts": [3]}', 400, "string"),
        (b'{"gallery": "gallery", "texts": ["\\ud800"]}', 400, "JSON"),
        (b'{"gallery": "gallery", "texts": ["\xff"]}', 400, "JSON"),
        (b'{"gallery": "other", "texts": ["a dog"]}', 404, "no gallery"),
        (b'{"gallery": "../model", "texts": ["a dog"]}', 400, "pattern"),
        (b'{"gallery": "gallery", "texts": ["a"], "top_k": 1e400}', 400, ""),
        (b"", 400, "JSON"),
    ],
)
def test_an_invalid_request_is_refused_with_a_reason(
    client: TestClient, body: bytes, status: int, message: str
) -> None:
    answer = client.post("/predictions/hire", content=body)
    assert answer.status_code == status and message in answer.json()["message"]


def test_a_gallery_without_pictures_has_boxes_only(tiny_dataset: Path, tmp_path: Path) -> None:
    example = make_example(tmp_path, tiny_dataset)
    shutil.rmtree(example.folder / "segments" / "000001" / "pictures")
    client = TestClient(demo.build_app(example.service, example.gallery, TOKEN), base_url=BASE)
    facts = client.get("/image", params={"id": example.gallery.ids[0]}).json()
    assert facts["boxes"] and not facts["picture"]
    assert client.get("/picture", params={"id": example.gallery.ids[0]}).status_code == 404


def test_a_port_in_use_is_refused(example: Example) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(HireError, match=f"Port {port} cannot be used"):
            CliRunner().invoke(app, ["demo", "--gallery", str(example.folder), "--port", port], catch_exceptions=False)


def test_a_model_that_did_not_encode_the_gallery_is_refused(
    example: Example, tiny_dataset: Path, tmp_path: Path
) -> None:
    other = save_untrained_model(tmp_path / "other", tiny_dataset, seed=1)
    arguments = ["demo", "--gallery", str(example.folder), "--model", str(other), "--port", "0"]
    with pytest.raises(HireError, match="build the gallery again with this model"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_folder_without_a_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HireError, match="no gallery here"):
        CliRunner().invoke(app, ["demo", "--gallery", str(tmp_path)], catch_exceptions=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Example, TestClient]]:
    """A demo whose model reads pictures."""
    example = make_picture_example(tmp_path_factory.mktemp("demo-pictures"))
    with TestClient(demo.build_app(example.service, example.gallery, TOKEN), base_url=BASE) as client:
        yield example, client


def test_a_picture_is_read_as_the_regions_that_the_import_made_of_it(pictures: tuple[Example, TestClient]) -> None:
    example, client = pictures
    path = example.gallery.picture(2)
    assert path and client.get("/gallery").json()["pictures"]
    read = client.post("/read", content=path.read_bytes()).json()
    stored = client.get("/image", params={"id": example.gallery.ids[2]}).json()
    assert read["image"] == stored | {"id": ""}
    reference = {"gallery": demo.GALLERY, "id": str(example.gallery.ids[2])}
    scores = [
        client.post("/predictions/hire", json={"images": [image], "texts": ["a red box"]}).json()["scores"][0][0]
        for image in (read["regions"], reference)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [(b"", 400, "empty"), (b"text", 400, "not a picture"), (bytes(10_000_001), 413, "at most 10,000,000"),
     (bytes(demo.BODY_BYTES + 1), 413, "larger than")],
    ids=["empty", "text", "over the limit of a picture", "over the limit of a request"],
)  # fmt: skip
def test_an_unusable_picture_is_refused_with_a_reason(
    pictures: tuple[Example, TestClient], content: bytes, status: int, message: str
) -> None:
    answer = pictures[1].post("/read", content=content)
    assert answer.status_code == status and message in answer.json()["detail"]


def test_a_model_without_an_extractor_says_that_it_reads_no_pictures(client: TestClient) -> None:
    assert not client.get("/gallery").json()["pictures"]
    assert "cannot read picture files" in client.post("/read", content=b"x").json()["detail"]

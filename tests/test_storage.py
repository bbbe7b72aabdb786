"""Data sets, galleries and archives on object storage: published in one step, fetched once, checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.splits import open_dataset
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.settings import DataSettings
from hire_model.storage import LISTING, fetch, is_address, localize, publish, pull

HINT = "No S3 server for tests: pip install 'hire-model[s3]' moto flask flask-cors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIRE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files, two of them equal, and with what is not published: a link and a hidden file."""
    folder = tmp_path / "things"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "deep" / "er" / "a.npy").write_bytes(b"12345")
    (folder / "deep" / "b.npy").write_bytes(b"12345")
    (folder / ".lock").write_text("hidden")
    (folder / "pictures").symlink_to(tmp_path)
    return folder


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """An address in memory, different for each test."""
    return f"memory://{request.node.name}/things"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run an S3 server with a bucket; yield the address of the bucket."""
    server = pytest.importorskip("moto.server", reason=HINT)
    pytest.importorskip("s3fs", reason=HINT)
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ENDPOINT_URL": f"http://{host}:{port}", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patch.setenv(f"AWS_{name}", "testing")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("hire-test")
        yield "s3://hire-test"
    running.stop()


def list_content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EXPECTED = {"manifest.json": b"{}", "deep/er/a.npy": b"12345", "deep/b.npy": b"12345"}


def test_a_fetched_folder_has_the_published_files(folder: Path, address: str) -> None:
    done = publish(folder, address)
    assert (done.files, done.sent, done.sent_bytes) == (3, 2, 7), "equal files are sent once"
    fetched = fetch(address)
    assert fetched.name == "things" and list_content(fetched) == EXPECTED
    assert localize(Path(address)) == str(fetched), "pathlib joins the two slashes of an address"
    assert localize("some/folder") == "some/folder" and not is_address("C:/folder")


def test_a_changed_folder_sends_and_fetches_only_new_files(folder: Path, address: str, cache: Path) -> None:
    publish(folder, address)
    old = fetch(address)
    (folder / "new").write_text("new")
    assert publish(folder, address).sent == 1
    times = {path.name: path.stat().st_mtime_ns for path in (cache / "storage" / "files").iterdir()}
    new = fetch(address)
    assert list_content(new) == EXPECTED | {"new": b"new"} and list_content(old) == EXPECTED
    kept = {path.name: path.stat().st_mtime_ns for path in (cache / "storage" / "files").iterdir()}
    assert times.items() < kept.items()


def test_an_interrupted_upload_is_not_seen_and_continues(
    folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = type(fsspec.filesystem("memory"))
    put, sent = system.put_file, []

    def fail_at_the_second(self: Any, local: str, remote: str, **options: Any) -> None:
        sent.append(remote)
        if len(sent) == 2:
            raise ConnectionError("the line is down")
        put(self, local, remote, **options)

    with monkeypatch.context() as patch:
        patch.setattr(system, "put_file", fail_at_the_second)
        with pytest.raises(HireError, match="the line is down"):
            publish(folder, address)
    with pytest.raises(HireError, match=rf"no folder is published here: {LISTING} is missing.*hire push FOLDER"):
        fetch(address)
    assert publish(folder, address).sent == 1
    assert list_content(fetch(address)) == EXPECTED


def test_a_damaged_object_is_refused_and_nothing_stays_in_the_cache(folder: Path, address: str, cache: Path) -> None:
    publish(folder, address)
    system, root = fsspec.core.url_to_fs(address)
    for entry in system.ls(f"{root}/files", detail=True):
        if entry["size"] == 5:
            system.pipe_file(entry["name"], b"12346")
    with pytest.raises(HireError, match=r"files/[0-9a-f]{64}: damaged.*belongs to deep/.*publish the folder again"):
        fetch(address)
    assert not list((cache / "storage").glob("folders/*"))


def test_a_list_with_a_path_outside_the_folder_is_refused(folder: Path, address: str) -> None:
    publish(folder, address)
    system, root = fsspec.core.url_to_fs(address)
    text = system.cat_file(f"{root}/{LISTING}").replace(b"deep/b.npy", b"../../b.npy")
    system.pipe_file(f"{root}/{LISTING}", text)
    with pytest.raises(HireError, match="leaves the folder"):
        fetch(address)


def test_a_pulled_folder_can_be_changed_and_is_not_overwritten(folder: Path, address: str, tmp_path: Path) -> None:
    publish(folder, address)
    out = pull(address, tmp_path / "copy")
    (out / "manifest.json").write_text("changed")
    assert list_content(fetch(address)) == EXPECTED
    with pytest.raises(HireError, match="exists already"):
        pull(address, out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://key:secret@bucket/things", "credentials in an address are refused"),
        ("nothing://bucket/things", "Protocol not known: nothing"),
        ("memory://empty", "no folder is published here"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(text: str, message: str) -> None:
    with pytest.raises(HireError, match=message) as error:
        fetch(text)
    assert "secret" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(HireError, match=r"not installed.*hire-model\[s3\]"):
        fetch("s3://bucket/things")


def test_a_data_set_on_s3_is_read_by_settings_and_commands(s3: str, tiny_dataset: Path) -> None:
    result = CliRunner().invoke(app, ["push", str(tiny_dataset), f"{s3}/data/tiny"])
    assert result.exit_code == 0, result.output
    opened = open_dataset(DataSettings(path=f"{s3}/data/tiny"))  # type: ignore[arg-type]
    assert opened.manifest.digest == Dataset.open(tiny_dataset).manifest.digest
    verified = CliRunner().invoke(app, ["data", "verify", f"{s3}/data/tiny"])
    assert verified.exit_code == 0 and "tiny: 0 errors" in verified.output


def test_two_processes_fetch_a_folder_once(s3: str, tiny_dataset: Path, cache: Path) -> None:
    publish(tiny_dataset, f"{s3}/data/both")
    program = f"from hire_model.storage import fetch; print(fetch('{s3}/data/both'))"
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum("fetching files" in errors for _, errors in outputs) == 1


def test_errors_of_s3_say_what_to_do(s3: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(HireError, match="bucket does not exist"):
        publish(folder, "s3://hire-missing/things")
    with pytest.raises(HireError, match=r"no folder is published here.*bucket does not exist"):
        fetch("s3://hire-missing/things")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(HireError, match="For S3 set AWS_ACCESS_KEY_ID"):
        publish(folder, f"{s3}/things")


def test_a_command_that_changes_a_gallery_wants_a_copy() -> None:
    result = CliRunner().invoke(app, ["gallery", "remove", "s3://bucket/gallery", "a.jpg"])
    assert isinstance(result.exception, HireError) and "hire pull ADDRESS FOLDER" in str(result.exception)

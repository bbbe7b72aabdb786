"""An archive is signed with a private key, and a server that has the public key refuses any other archive."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from signing_keys import make_keys

from hire_model.errors import HireError
from hire_model.packaging.signing import check_signature, find_signature, sign
from hire_model.packaging.verify import ArchiveError
from hire_model.settings import SigningSettings


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "1" / "hire.mar"
    path.parent.mkdir()
    path.write_bytes(b"an archive")
    return path


def test_a_signed_archive_is_accepted_in_any_folder(archive: Path, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    signature = sign(archive, keys)
    assert signature == find_signature(archive) == archive.with_name("hire.mar.sig")
    check_signature(archive, keys)
    archive.parent.rename(tmp_path / "copied")
    check_signature(tmp_path / "copied" / "hire.mar", keys)


def test_another_archive_or_key_or_a_damaged_signature_is_refused(archive: Path, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    signature = sign(archive, keys)
    assert signature is not None
    with pytest.raises(ArchiveError, match=r"hire\.mar\.sig: not a signature of hire\.mar by the owner of .*stranger"):
        check_signature(archive, make_keys(tmp_path, "stranger"))
    signed = signature.read_bytes()
    for content in (b"", b"junk", signed[: len(signed) // 2], signed.replace(b"payload", b"PAYLOAD")):
        signature.write_bytes(content)
        with pytest.raises(ArchiveError, match="not a signature"):
            check_signature(archive, keys)
    signature.write_bytes(signed)
    archive.write_bytes(b"an archivE")
    with pytest.raises(ArchiveError, match="not a signature"):
        check_signature(archive, keys)


def test_with_a_public_key_an_unsigned_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"not signed, but .* asks for a signature"):
        check_signature(archive, make_keys(tmp_path))


def test_without_keys_nothing_is_signed_or_checked_and_the_log_says_so(
    archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    sign(archive, make_keys(tmp_path))
    check_signature(archive, SigningSettings())
    assert "hire.mar.sig is not checked: HIRE_SIGNING__PUBLIC_KEY names no public key" in caplog.text
    assert sign(archive, SigningSettings()) is None
    assert not find_signature(archive).exists(), "a signature of earlier bytes is removed"
    assert "is not signed: HIRE_SIGNING__PRIVATE_KEY names no private key" in caplog.text
    check_signature(archive, SigningSettings())


def test_a_missing_or_wrong_key_is_named(archive: Path, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    swapped = SigningSettings(private_key=keys.public_key, public_key=keys.private_key)
    for settings in (swapped, SigningSettings(private_key=tmp_path / "none", public_key=tmp_path / "none")):
        with pytest.raises(HireError, match=r"HIRE_SIGNING__PRIVATE_KEY=.*: no private key of an elliptic curve"):
            sign(archive, settings)
        with pytest.raises(HireError, match=r"HIRE_SIGNING__PUBLIC_KEY=.*: no public key of an elliptic curve"):
            check_signature(archive, settings)
    assert not find_signature(archive).exists()


def test_a_key_with_a_password_signs_only_with_the_file_of_its_password(archive: Path, tmp_path: Path) -> None:
    keys, file = make_keys(tmp_path, password=b"a secret"), tmp_path / "password"
    for content in (None, "another"):
        if content is not None:
            file.write_text(content)
        settings = keys if content is None else keys.model_copy(update={"password_file": file})
        with pytest.raises(HireError, match="HIRE_SIGNING__PASSWORD_FILE names the file") as refused:
            sign(archive, settings)
        assert "secret" not in str(refused.value)
    file.write_text("a secret\n")
    sign(archive, keys.model_copy(update={"password_file": file}))
    check_signature(archive, keys)
    with pytest.raises(HireError, match=r"HIRE_SIGNING__PASSWORD_FILE=.*none: cannot be read: No such file"):
        sign(archive, keys.model_copy(update={"password_file": tmp_path / "none"}))

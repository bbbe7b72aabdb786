"""Sign archives and check their signatures, with OpenSSF Model Signing and a team's own elliptic-curve key.

The digests of the registry show that an archive is the one that was packaged, as long as nobody else can write to the
registry. A signature also shows who packaged it. The signature of `hire.mar` is `hire.mar.sig` beside it, a Sigstore
bundle that `model_signing verify key` reads too.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hire_model.errors import HireError
from hire_model.files import atomic_write
from hire_model.packaging.verify import ArchiveError
from hire_model.settings import SigningSettings

log = logging.getLogger(__name__)

SUFFIX = ".sig"
_INSTALL = "signing needs a package that is not installed: pip install 'hire-model[signing]'."
_ENVIRONMENT, _PASSWORD = "HIRE_SIGNING__{}_KEY", "HIRE_SIGNING__PASSWORD_FILE"


def find_signature(archive: Path) -> Path:
    """Return the path of the signature of `archive`, whether it exists or not."""
    return archive.with_name(archive.name + SUFFIX)


def sign(archive: Path, settings: SigningSettings) -> Path | None:
    """Sign a packaged archive; return the file of the signature.

    Without signing.private_key, remove a signature of earlier bytes, log that the archive is not signed, and return
    None.

    Raises:
        HireError: the key is missing or no private key in PEM, its password is missing or wrong, or signing is not
            installed.
    """
    signature = find_signature(archive)
    if settings.private_key is None:
        signature.unlink(missing_ok=True)
        log.warning("%s is not signed: %s names no private key.", archive, _ENVIRONMENT.format("PRIVATE"))
        return None
    try:
        from model_signing import signing
    except ImportError as error:
        raise HireError(_INSTALL) from error
    password = _read_password(settings.password_file)
    try:
        signer = signing.Config().use_elliptic_key_signer(
            private_key=settings.private_key,
            password=password,  # type: ignore[arg-type]  # annotated as str, but passed on to a function of bytes
        )
    except (OSError, ValueError, TypeError) as error:
        raise _describe_key_error("PRIVATE", settings.private_key, error) from error
    with atomic_write(signature) as partial:
        signer.sign(archive, partial)
    return signature


def check_signature(archive: Path, settings: SigningSettings) -> None:
    """Check the signature of an archive, if signing.public_key is set. Otherwise log that a signature is not checked.

    Raises:
        ArchiveError: there is no signature, it was made with another key, or for other bytes.
        HireError: the key is missing or no public key in PEM, or signing is not installed.
    """
    signature = find_signature(archive)
    if settings.public_key is None:
        if signature.is_file():
            log.warning("%s is not checked: %s names no public key.", signature, _ENVIRONMENT.format("PUBLIC"))
        return
    try:
        from model_signing import verifying
    except ImportError as error:
        raise HireError(_INSTALL) from error
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=settings.public_key)
    except (OSError, ValueError, TypeError) as error:
        raise _describe_key_error("PUBLIC", settings.public_key, error) from error
    if not signature.is_file():
        raise ArchiveError(
            f"{archive}: not signed, but {settings.public_key} asks for a signature. Package the version again with "
            f"{_ENVIRONMENT.format('PRIVATE')}."
        )
    try:
        verifier.verify(archive, signature)
    except Exception as error:  # whatever its parsers raise for a damaged bundle
        raise ArchiveError(
            f"{signature}: not a signature of {archive.name} by the owner of {settings.public_key}: {error}. Nothing "
            "was started. Find out who replaced the archive or the signature, then package the version again."
        ) from error


def _read_password(path: Path | None) -> bytes | None:
    """Return the first line of the file, or None without a file."""
    if path is None:
        return None
    try:
        return path.read_bytes().partition(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise HireError(
            f"{_PASSWORD}={path}: cannot be read: {error.strerror or error}. Name a file with the key's password."
        ) from error


def _describe_key_error(kind: str, path: Path, error: Exception) -> HireError:
    hint = f" If the key has a password, {_PASSWORD} names the file with it." if kind == "PRIVATE" else ""
    return HireError(
        f"{_ENVIRONMENT.format(kind)}={path}: no {kind.lower()} key of an elliptic curve in PEM: {error}.{hint} "
        "docs/security.md shows how to make a pair of keys."
    )

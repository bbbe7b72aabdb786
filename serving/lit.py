"""Serve an archive with LitServe instead of TorchServe: the same paths, JSON, statuses and bodies.

    python -m serving.lit --archive archives/3/hire.mar --port 8090 --folder runs/lit

The server listens on 127.0.0.1 and requires the token in FOLDER/key_file.json, which is new at each start. Reasons for
LitServe: docs/adr/006-litserve.md.
"""
# No `from __future__ import annotations` here: LitServe and FastAPI evaluate the annotations in other modules.

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from fastapi import Depends, HTTPException, Response
from fastapi import Request as HttpRequest
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from litserve import LitAPI, LitServer

from hire_model.files import atomic_write
from hire_model.packaging.verify import extract
from hire_model.service.galleries import GALLERIES_VARIABLE
from hire_model.service.parsing import Request
from hire_model.service.service import Reply
from serving.tokens import KEYS, write_header

BODY_BYTES = 16 << 20  # as max_request_size in serving/config/config.properties
TIMEOUT_S = 15.0
_EXPLAIN = {"predictions": False, "explanations": True}


async def _read_request(operation: str, request: HttpRequest) -> Request:
    """Read the body without parsing it: `Service` reports errors as in the contract."""
    if operation not in _EXPLAIN:
        raise HTTPException(404)
    return Request(await request.body(), _EXPLAIN[operation])


class HireAPI(LitAPI):
    """One model in one worker process with one thread, for both paths."""

    def __init__(self, folder: Path, token: str) -> None:
        """Create it from an unpacked archive in `folder` and the token that clients must send."""
        super().__init__(api_path="/{operation}/hire")
        self.folder, self.token = folder, token

    def setup(self, device: str) -> None:
        """Verify and load the model, and check its golden pairs. After an exception the server does not start."""
        import torch

        from hire_model.packaging.opening import open_service

        torch.set_num_threads(1)  # as in serving/handler.py
        self.service = open_service(self.folder)

    def authorize(self, sent: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> None:
        """Refuse a wrong token with 401."""
        if not secrets.compare_digest(sent.credentials.encode(), self.token.encode()):
            raise HTTPException(401, "Wrong token.")

    def decode_request(self, request: Annotated[Request, Depends(_read_request)]) -> Request:
        """Return the request unchanged; `_read_request` created it."""
        return request

    def predict(self, x: Request) -> Reply:
        """Return the reply. Never raises."""
        return self.service.answer([x])[0][0]

    def encode_response(self, output: Reply) -> Response:
        """Return the status and the body of the service."""
        return Response(output.body, output.status, media_type="application/json")


def build_server(folder: Path, token: str) -> LitServer:
    """Build a server for the archive unpacked in `folder`."""
    return LitServer(
        HireAPI(folder, token), accelerator="cpu", timeout=TIMEOUT_S, healthcheck_path="/ping",
        max_payload_size=BODY_BYTES, disable_openapi_url=True, restart_workers=True,
    )  # fmt: skip


def write_token(folder: Path) -> str:
    """Write a new token to key_file.json and header.txt in `folder`, readable by their owner only. Return it."""
    token = secrets.token_urlsafe(32)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_write(folder / KEYS, 0o600) as partial:
        partial.write_text(json.dumps({"inference": {"key": token}}), "utf-8")
    write_header(folder, token)
    return token


def main(
    archive: Annotated[Path, typer.Option(metavar="FILE", help="Archive from 'hire package'.")],
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port on 127.0.0.1.")] = 8090,
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", file_okay=False, help="Folder for the files with the token.")
    ] = Path("runs/lit"),
    galleries: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder that contains galleries.")] = None,
) -> None:
    """Serve an archive with LitServe until Ctrl+C."""
    if galleries is not None:
        os.environ[GALLERIES_VARIABLE] = str(galleries.resolve())
    with tempfile.TemporaryDirectory(prefix="hire-lit-") as unpacked:
        extract(archive, Path(unpacked))
        server = build_server(Path(unpacked), write_token(folder))
        print(f"http://127.0.0.1:{port}/predictions/hire, token in {folder / KEYS}", flush=True)
        server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, pretty_logs=False)


if __name__ == "__main__":
    typer.run(main)

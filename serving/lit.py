"""The way out of TorchServe: the same archive behind LitServe, with the same paths, JSON, statuses and bodies.

    python -m serving.lit --archive archives/3/hire.mar --port 8090 --folder runs/lit

It listens on 127.0.0.1 and wants the token in FOLDER/key_file.json, which it makes anew at each start. Why LitServe:
docs/adr/006-way-out-of-torchserve.md.
"""
# No `from __future__ import annotations` here: LitServe and FastAPI read annotations as objects, from another module.

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

KEYS = "key_file.json"  # of TorchServe's form, so that curl lines and clients need to know one
LARGEST = 16 << 20  # bytes of a body, as of serving/config/config.properties
TIMEOUT_S = 15.0
_EXPLAIN = {"predictions": False, "explanations": True}


async def _ask(operation: str, request: HttpRequest) -> Request:
    """The body as it came; the contract says what is wrong with it."""
    if operation not in _EXPLAIN:
        raise HTTPException(404)
    return Request(await request.body(), _EXPLAIN[operation])


class HireAPI(LitAPI):
    """One model in one worker process, one thread; both paths share it."""

    def __init__(self, folder: Path, token: str) -> None:
        """folder: an unpacked archive; token: what a caller must send."""
        super().__init__(api_path="/{operation}/hire")
        self.folder, self.token = folder, token

    def setup(self, device: str) -> None:
        """Load the model, digests checked, and score the golden pairs. What is raised here keeps it from serving."""
        import torch

        from hire_model.packaging.opening import open_service

        torch.set_num_threads(1)  # as in serving/handler.py
        self.service = open_service(self.folder)

    def authorize(self, sent: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> None:
        """Refuse other tokens with 401."""
        if not secrets.compare_digest(sent.credentials.encode(), self.token.encode()):
            raise HTTPException(401, "Wrong token.")

    def decode_request(self, request: Annotated[Request, Depends(_ask)]) -> Request:
        """Return the request unchanged: `_ask` has made it."""
        return request

    def predict(self, x: Request) -> Reply:
        """Its reply. Never raises."""
        return self.service.answer([x])[0][0]

    def encode_response(self, output: Reply) -> Response:
        """Status and body as the service says."""
        return Response(output.body, output.status, media_type="application/json")


def server_of(folder: Path, token: str) -> LitServer:
    """A server of the archive unpacked in `folder`."""
    return LitServer(
        HireAPI(folder, token), accelerator="cpu", timeout=TIMEOUT_S, healthcheck_path="/ping",
        max_payload_size=LARGEST, disable_openapi_url=True, restart_workers=True,
    )  # fmt: skip


def write_token(folder: Path) -> str:
    """A new token in FOLDER/key_file.json, readable by its owner only."""
    token = secrets.token_urlsafe(32)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_write(folder / KEYS, 0o600) as partial:
        partial.write_text(json.dumps({"inference": {"key": token}}), "utf-8")
    return token


def main(
    archive: Annotated[Path, typer.Option(metavar="FILE", help="Made by 'hire package'.")],
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Of 127.0.0.1.")] = 8090,
    folder: Annotated[Path, typer.Option(metavar="FOLDER", file_okay=False, help="Where the token is put.")] = Path(
        "runs/lit"
    ),
    galleries: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder of galleries by name.")] = None,
) -> None:
    """Serve an archive with LitServe until ctrl-C."""
    if galleries is not None:
        os.environ[GALLERIES_VARIABLE] = str(galleries.resolve())
    with tempfile.TemporaryDirectory(prefix="hire-lit-") as place:
        extract(archive, Path(place))
        server = server_of(Path(place), write_token(folder))
        print(f"http://127.0.0.1:{port}/predictions/hire, token in {folder / KEYS}", flush=True)
        server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, pretty_logs=False)


if __name__ == "__main__":
    typer.run(main)

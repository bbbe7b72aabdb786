"""Send requests to one server, without its front, and check that it scores its golden pairs correctly."""

from __future__ import annotations

import time
import zipfile

import httpx

from hire_model.packaging.verify import GOLDEN, Golden
from hire_model.service.contract import PROBE
from serving.contract import PREDICTIONS
from serving.process import ARCHIVE, ServeError, Server

START_S = 180.0


def wait_until_ready(server: Server, seconds: float = START_S) -> float:
    """Send the golden pairs until the server answers. Return the largest difference to their known scores.

    Raises ServeError if a score is wrong, the server ends, or there is no answer within `seconds`.
    """
    golden = read_golden(server)
    end, last = time.monotonic() + seconds, "no answer yet"
    while time.monotonic() < end:
        if server.find_process() is None:
            raise ServeError(f"The server ended while starting. The end of its logs:\n{server.read_log_tail()}")
        try:
            answer = send_request(server, golden.request, probe=True)
        except (httpx.TransportError, ServeError) as error:  # it does not listen yet, or has no tokens yet
            last = str(error)
        else:
            if answer.status_code == 200:
                difference = golden.measure_difference(answer.json()["scores"])
                if difference <= Golden.TOLERANCE:
                    return difference
                message = f"Wrong scores for the golden pairs: the difference is {difference:.1e}."
                raise ServeError(f"{message} The server was stopped.")
            last = f"{answer.status_code} {answer.text[:300]}"
        time.sleep(0.2)
    message = f"The server did not score its golden pairs within {seconds:.0f} s. The last answer: {last}"
    raise ServeError(f"{message}\n{server.read_log_tail()}")


def send_request(
    server: Server, request: object, path: str = PREDICTIONS, timeout: float = 20.0, probe: bool = False
) -> httpx.Response:
    """Send one request with a token. The server does not record a probe in its journal."""
    headers = {"Authorization": f"Bearer {server.get_token()}"} | ({PROBE: "1"} if probe else {})
    with server.open_client(timeout) as client:
        return client.post(path, json=request, headers=headers)


def is_healthy(server: Server) -> bool:
    """Return whether the server scores its golden pairs correctly at the moment."""
    golden = read_golden(server)
    try:
        answer = send_request(server, golden.request, probe=True)
    except (httpx.HTTPError, ServeError):
        return False
    return answer.status_code == 200 and golden.measure_difference(answer.json()["scores"]) <= Golden.TOLERANCE


def read_golden(server: Server) -> Golden:
    """Return the golden request of the served archive, with its scores."""
    with zipfile.ZipFile(server.folder / ARCHIVE) as archive:
        return Golden.model_validate_json(archive.read(GOLDEN))

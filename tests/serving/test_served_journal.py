"""The journal that a real TorchServe writes with `hire serve --journal`; test_gunicorn.py has that of gunicorn."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hire_model.monitoring.journal import JournalSettings, list_parts, read_lines
from hire_model.tracking.versions import Archive
from serving import server
from serving.process import find_free_ports


@pytest.mark.live
def test_served_pairs_are_recorded_and_probes_are_not(archived: Archive, tmp_path: Path) -> None:
    [port] = find_free_ports(1)
    journal = JournalSettings(tmp_path / "journal", 1.0)
    try:
        running = server.serve(archived, tmp_path / "run", port=port, journal=journal)
        assert server.is_healthy(running)
        golden = server.read_golden(running).request
        answer = server.send_request(running, {"pairs": golden["pairs"][:1]})
        assert answer.status_code == 200, answer.text
        for _ in range(100):
            if list_parts(journal.folder) and list_parts(journal.folder)[0].stat().st_size:
                break
            time.sleep(0.1)
        assert server.serve(archived, tmp_path / "run", port=port).journal == journal, (
            "the journal stays if it is not named again"
        )
    finally:
        server.stop(tmp_path / "run")
    [line] = read_lines(journal.folder)
    assert line.score == pytest.approx(answer.json()["scores"][0])
    assert (line.version, line.text) == ("1", None)

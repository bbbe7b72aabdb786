"""`hire serve --journal`: what a real TorchServe writes, in its clean environment."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hire_model.monitoring.journal import JournalSettings, list_parts, read_lines
from hire_model.tracking.versions import Archive
from serving import instance, server


@pytest.mark.live
def test_a_served_pair_is_in_the_journal_and_probes_are_not(archived: Archive, tmp_path: Path) -> None:
    [port] = instance.free_ports(1)
    journal = JournalSettings(tmp_path / "journal", 1.0)
    try:
        running = server.serve(archived, tmp_path / "run", port=port, journal=journal)
        assert server.healthy(running)
        golden = server.golden_of(running).request
        answer = server.ask(running, {"pairs": golden["pairs"][:1]})
        assert answer.status_code == 200, answer.text
        for _ in range(100):
            if list_parts(journal.folder) and list_parts(journal.folder)[0].stat().st_size:
                break
            time.sleep(0.1)
        assert server.serve(archived, tmp_path / "run", port=port).journal == journal, "it was not named again"
    finally:
        server.stop(tmp_path / "run")
    [line] = read_lines(journal.folder)
    assert line.score == pytest.approx(answer.json()["scores"][0])
    assert (line.version, line.text) == ("1", None)

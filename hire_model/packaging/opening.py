"""Open an unpacked archive as a service. Every server that loads an archive starts here."""

from __future__ import annotations

from pathlib import Path

from hire_model.errors import HireError
from hire_model.monitoring.journal import Journal, JournalSettings
from hire_model.packaging.verify import GOLDEN, MODEL, Golden, verify_folder
from hire_model.service.galleries import find_galleries_folder
from hire_model.service.service import Service
from hire_model.service.tracing import open_tracing


def open_service(folder: Path) -> Service:
    """Open the archive unpacked in `folder`, with galleries, journal and traces as the environment variables say.

    This checks the digests and scores the golden pairs. Raises HireError if a digest or a score is wrong, so that the
    archive is not served.
    """
    manifest = verify_folder(folder)
    service = Service.load(
        folder / MODEL,
        name=manifest.model,
        version=manifest.version,
        run_id=manifest.run_id,
        galleries=find_galleries_folder(),
    )
    golden = Golden.model_validate_json((folder / GOLDEN).read_text("utf-8"))
    difference = golden.measure_difference(service.score_pairs(golden.request))
    if not difference <= Golden.TOLERANCE:
        raise HireError(
            f"{folder}: the scores of the golden pairs differ by {difference:.1e}, at most {Golden.TOLERANCE} was "
            "expected. This machine scores differently."
        )
    service.galleries.open_all()
    if journal := JournalSettings.from_environment():  # after the golden pairs, so that they are not recorded
        service.journal = Journal(journal, service.facts, service.scorer.model.vocabulary)
    service.tracing = open_tracing(service.facts)
    return service

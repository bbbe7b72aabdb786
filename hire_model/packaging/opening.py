"""An unpacked archive made ready to answer, as every server that takes archives starts."""

from __future__ import annotations

from pathlib import Path

from hire_model.errors import HireError
from hire_model.monitoring.journal import Journal, JournalSettings
from hire_model.packaging.verify import GOLDEN, MODEL, Golden, verify_folder
from hire_model.service.galleries import named
from hire_model.service.service import Service


def service_of(folder: Path) -> Service:
    """The service of the archive unpacked in `folder`, with the galleries and the journal that the environment names.

    The digests are checked and the golden pairs scored. Raises HireError, which keeps the archive from being served.
    """
    manifest = verify_folder(folder)
    service = Service.load(
        folder / MODEL, name=manifest.model, version=manifest.version, run_id=manifest.run_id, galleries=named()
    )
    golden = Golden.model_validate_json((folder / GOLDEN).read_text("utf-8"))
    apart = golden.difference(service.scores(golden.request))
    if not apart <= Golden.TOLERANCE:
        raise HireError(f"{folder}: the golden pairs are off by {apart:.1e}; this machine scores differently.")
    service.intake.galleries.open_all()
    if journal := JournalSettings.from_environment():  # not before: the golden pairs are nobody's request
        service.journal = Journal(journal, service.facts, service.scorer.model.vocabulary)
    return service

"""A signal ends a command, even if a library suppresses its exception."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from hire_model import stopping
from hire_model.progress import show_progress

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _install_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stopping, "_received", None)
    before = {kind: signal.getsignal(kind) for kind in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a command that a terminal starts
    stopping.install_signal_handlers()
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize(("kind", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_suppressed_signal_ends_the_loop_before_the_next_item(
    kind: signal.Signals, error: type[BaseException]
) -> None:
    seen = []
    with pytest.raises(error) as caught:
        for item in show_progress(range(5), "counting"):
            seen.append(item)
            if item == 2:
                with contextlib.suppress(error):  # as a destructor or compiled code does
                    signal.raise_signal(kind)
    assert seen == [0, 1, 2]
    assert kind == signal.SIGINT or caught.value.code == 128 + kind


def test_a_command_that_ignores_sigint_still_ignores_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping.install_signal_handlers()
    signal.raise_signal(signal.SIGINT)
    assert list(show_progress(range(3), "counting")) == [0, 1, 2]

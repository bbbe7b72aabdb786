"""Thin adapters over the scorer: TorchServe, LitServe, a client, a demo page, and one contract."""

from pathlib import Path

HANDLER = Path(__file__).with_name("handler.py")
"""TorchServe's adapter, which travels in the archive."""

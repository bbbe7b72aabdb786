"""Serve the model over HTTP with TorchServe or gunicorn. Also the Python client, the demo page and openapi.json."""

from pathlib import Path

HANDLER = Path(__file__).with_name("handler.py")
"""The handler of TorchServe. `hire package` puts it into the archive."""

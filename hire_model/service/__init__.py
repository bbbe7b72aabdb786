"""The request contract that every server answers, independent of the server."""

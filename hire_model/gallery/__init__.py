"""Encoded images and captions on disk: format, index, building and search."""

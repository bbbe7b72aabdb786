"""Package a registered version as an archive: one file for a server, with digests and golden pairs to verify it."""

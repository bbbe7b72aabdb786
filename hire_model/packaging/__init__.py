"""Archives: a registered version as one file that a server loads, its digests and its golden pairs inside."""

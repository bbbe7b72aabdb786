"""The data layer: one format on disk, what writes it, what reads it."""

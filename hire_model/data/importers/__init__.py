"""Importers. Each reads one published layout as a `Source`; `base.write_dataset` writes it as a data set."""

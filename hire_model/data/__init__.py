"""The data format of the project: store, writer, importers and generated data."""

"""Evaluate a model: ranks and recall under named protocols, intervals, slices, plots, the report, and other tests."""

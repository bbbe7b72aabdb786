"""Evaluate a similarity matrix: ranks, named protocols, intervals, slices, plots and the report."""

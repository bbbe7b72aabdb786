"""Judging a similarity matrix: ranks, named protocols, intervals, slices, figures and the report."""

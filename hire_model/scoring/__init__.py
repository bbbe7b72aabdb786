"""Scoring: pairs, rankings, whole matrices, explanations."""

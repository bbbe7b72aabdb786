"""Stages 6 to 8 in compiled code, for scoring on a CPU. `scoring.score` is the entry."""

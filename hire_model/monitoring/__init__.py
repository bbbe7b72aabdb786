"""Monitoring: the journal of served requests, reference distributions, and the drift report."""

"""Evaluation through mteb's own code."""

"""Evaluation: metrics, run files, the M-BEIR evaluation, the report. Nothing is imported here: ``metrics`` and ``runs``
stay usable without torch."""

"""Vectors kept in files: written, read, and scored without a model."""

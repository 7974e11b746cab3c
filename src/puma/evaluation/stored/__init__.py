"""Vectors that are kept: while they are made, and as files of a benchmark."""

"""Exact search: all vectors compared, in memory or streamed from files within a memory budget."""

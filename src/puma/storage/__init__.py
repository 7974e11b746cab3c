"""Folders, row files and shards that are whole after a kill. Loads no torch."""

"""Results as pages, tables and lines to read."""

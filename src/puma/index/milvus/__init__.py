"""Indexes on a Milvus server."""

"""Recipes: how a retriever is made of a base, read from YAML, and what that would cost."""

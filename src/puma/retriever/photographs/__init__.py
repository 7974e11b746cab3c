"""Photographs: a retriever whose folder holds an image classifier adds what that recognises to their vectors."""

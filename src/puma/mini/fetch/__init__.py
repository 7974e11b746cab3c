"""Packages fetched from the registries by name, verified, unpacked."""

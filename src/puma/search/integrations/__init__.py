"""Adapters for other frameworks: LangChain and LlamaIndex. Loads neither them nor torch.

Most frameworks can speak one of the HTTP shapes of docs/serving.md and need no adapter.
"""

from __future__ import annotations

from puma.errors import DependencyError, install_command


def not_installed(package: str, extra: str, error: ImportError) -> DependencyError:
    """What to raise where ``package`` cannot be imported; ``extra`` is the part of PUMA that brings it."""
    return DependencyError(
        f"puma.search.integrations.{extra.replace('-', '_')} needs {package}, which cannot be imported ({error}): "
        + install_command(extra)
    )

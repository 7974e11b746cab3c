"""PUMA inside other people's frameworks: :mod:`puma.search.integrations.langchain`, :mod:`puma.search.integrations.llama_index`.

Here: the error for a framework that is not installed. Not here: the HTTP shapes that most frameworks can speak without
any adapter (docs/serving.md). Nothing is imported until one of the modules is; neither loads torch.
"""

from __future__ import annotations

from puma.errors import DependencyError


def not_installed(package: str, extra: str, error: ImportError) -> DependencyError:
    """What to raise where ``package`` cannot be imported; ``extra`` is the part of PUMA that brings it."""
    return DependencyError(
        f"puma.search.integrations.{extra.replace('-', '_')} needs {package}, which cannot be imported ({error}): "
        f"pip install 'puma-retrieval[{extra}]'"
    )

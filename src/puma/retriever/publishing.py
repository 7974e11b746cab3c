"""Uploading a retriever's folder to the hub, by the hub's own client."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from puma.errors import InputError, ModelError, first_line
from puma.retriever.sentence_transformers import write_model_card

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
REPLACED = ["model*.safetensors", "model*.safetensors.index.json"]
"""Weights of an earlier upload, which may have been in other parts: those that are not uploaded again are deleted."""


def push_retriever(
    retriever: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """What :meth:`puma.retriever.model.Retriever.push_to_hub` does; arguments, result and errors are there."""
    if not _REPOSITORY.fullmatch(repo_id):
        raise InputError(f"repo_id={repo_id!r}: give the name of a repository on the hub, as org/name")
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"repo_id={repo_id!r}: HF_HUB_OFFLINE is set, so nothing is uploaded; unset it")
    if not (token or huggingface_hub.get_token()):
        raise InputError(
            f"token={token!r}: to upload to {repo_id!r} the hub needs a token that may write; give one, set HF_TOKEN, "
            "or run `hf auth login`"
        )
    api: Any = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = retriever.save_pretrained(Path(scratch) / "model")
        try:
            made = api.create_repo(repo_id, private=private, exist_ok=True)
            name = str(made.repo_id)
            if private and not api.repo_info(name).private:  # an existing repository is left as it is
                raise InputError(f"private=True: {name} is there already and public; make it private first, or rename")
            write_model_card(folder, retriever, name)
            if revision is not None:
                api.create_branch(name, branch=revision, exist_ok=True)
            api.upload_folder(
                repo_id=name,
                folder_path=folder,
                revision=revision,
                commit_message="Upload a PUMA retriever",
                delete_patterns=REPLACED,
            )
        except InputError:
            raise
        except Exception as error:  # the hub's client raises its own errors, those of its HTTP client, and OSError
            raise ModelError(f"repo_id {repo_id!r}: cannot be uploaded: {first_line(error)}") from None
    return str(made)

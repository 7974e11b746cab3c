"""Folders that the ``datasets`` library saves: which are such, and which files hold the rows. Loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from puma.errors import DataError, InputError

DATASET, DATASETS = "dataset_info.json", "dataset_dict.json"
"""The file by which a saved data set is known, and one of several splits."""
SPLIT = "train"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is a saved data set, or one of several splits."""
    return any((path / name).is_file() for name in (DATASET, DATASETS))


def split_folder(path: Path) -> Path:
    """The folder of a saved data set, or of the split of several that is read.

    Raises:
        InputError: it is no saved data set, or has several splits and none named ``train``.
        DataError: it is damaged.
    """
    if not (path / DATASETS).is_file():
        if not (path / DATASET).is_file():
            if (path / "query").is_dir():
                raise InputError(
                    f"{path}: is a benchmark folder already (M-BEIR's layout), not a table of pairs; puma train, "
                    "probe, mine and evaluate take it as it is"
                )
            raise InputError(
                f"{path}: a folder without {DATASET}, so not a saved data set; give one, or a table of pairs as a file"
            )
        return path
    splits = _json_file(path / DATASETS).get("splits")
    if not isinstance(splits, list) or not splits:
        raise DataError(f"{path / DATASETS}: names no splits; save the data set anew")
    chosen = SPLIT if SPLIT in splits else splits[0] if len(splits) == 1 else None
    if chosen is None:
        raise InputError(
            f"{path}: has the splits {splits} and none named {SPLIT}; give one's folder: {path}/{splits[0]}"
        )
    return path / str(chosen)


def arrow_files(folder: Path) -> list[Path]:
    """The files that hold a data set's rows, in order.

    Raises:
        DataError: one is missing, or they are not named.
    """
    state = _json_file(folder / "state.json")
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError):
        raise DataError(f"{folder / 'state.json'}: names no data files; save the data set anew") from None
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(f"{folder}: {missing[0].name if missing else 'the data file'} is missing; save it anew")
    return files


def _json_file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save the data set anew") from None
    return found if isinstance(found, dict) else {}

"""Everything below a folder of an object store, also where a key in it is none of a path. Loads no torch.

obstore refuses keys with an empty part, ``.`` or ``..`` (``a//b.png``), and with one such key the whole page of the
listing. Then each folder is listed by itself, and one that holds such a key by pyarrow, which reads no such object
either but tells what lies beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from puma.items.ahead import THREADS, in_order
from puma.items.objects import ObjectPath, OddKeyError
from puma.storage.object_files import version_of
from puma.storage.object_stores import CONNECT_SECONDS, REQUEST_SECONDS, store_of, unusable

ODD_KEYS = "holds objects whose key has an empty part, '.' or '..', which cannot be read; rename them"
"""What is said of such a folder, or of such an object."""
_UNORDERED = "--x-s3"
"""How the names of buckets end whose listings have no order."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

Refused = Callable[[str], object]
"""Called with the address of what cannot be read."""


def _ignored(_: str) -> None:
    pass


def everything_below(path: ObjectPath, refused: Refused = _ignored, *, versions: bool = True) -> Iterator[ObjectPath]:
    """All objects below a folder, as :meth:`puma.items.objects.ObjectPath.below`; but a key that is none of a path
    costs itself and the folder that it lies in alone (on S3; elsewhere it is an error). Beside such keys each object's
    version costs a request.

    Args:
        refused: called with each address that cannot be read: of a folder with all that is in it, or of an object.
        versions: whether versions are needed.

    Raises:
        StorageError: the store cannot be used.
    """
    last = ""
    try:
        for found in path.below():
            last = found.key
            yield found
    except OddKeyError:
        if not path.root.startswith("s3://") or (last and path.root.endswith(_UNORDERED)):
            raise
    else:
        return
    given = last.encode()  # keys are listed by their bytes
    for child, is_folder in _children(path, refused):
        if is_folder:
            below = everything_below(child, refused, versions=versions)
            yield from (found for found in below if found.key.encode() > given)
        elif child.key.encode() > given and (child.version is not None or not versions):
            yield child


def _children(path: ObjectPath, refused: Refused) -> Iterator[tuple[ObjectPath, bool]]:
    """The objects and folders in a folder, each with whether it is a folder, in the order of their keys."""
    import obstore

    try:
        found = obstore.list_with_delimiter(store_of(path.root), path.key or None)
    except Exception as error:
        if type(error).__name__ != "InvalidPathError":
            raise unusable(path, error) from None
        yield from _children_beside_odd_keys(path, refused)
        return
    children = [(ObjectPath(path.root, str(one["path"]), version_of(one)), False) for one in found["objects"]]
    folders = [(ObjectPath(path.root, str(key)), True) for key in found["common_prefixes"]]
    yield from sorted(children + folders, key=_place)


def _children_beside_odd_keys(path: ObjectPath, refused: Refused) -> Iterator[tuple[ObjectPath, bool]]:
    from pyarrow import fs

    bucket = path.root.partition("://")[2]
    base = f"{bucket}/{path.key}".rstrip("/")
    try:
        entries = _s3().get_file_info(fs.FileSelector(base, recursive=False))
    except OSError as error:
        raise unusable(path, error) from None
    objects, folders = list[ObjectPath](), list[ObjectPath]()
    for entry in entries:
        key, is_folder = entry.path.rstrip("/").removeprefix(bucket).lstrip("/"), entry.type == fs.FileType.Directory
        if key == path.key:  # its name is empty
            refused(f"{path}//")
        elif key.rpartition("/")[2] in (".", ".."):
            refused(f"{path.root}/{key}" + "/" * is_folder)
        else:
            (folders if is_folder else objects).append(ObjectPath(path.root, key))
    requests = ((partial(_current, child), 0) for child in sorted(objects, key=lambda child: child.key.encode()))
    yield from ((child, False) for child in in_order(requests, ahead=4 * THREADS))
    yield from sorted(((child, True) for child in folders), key=_place)


def _current(path: ObjectPath) -> ObjectPath:
    return ObjectPath(path.root, path.key, path.current())


def _place(child: tuple[ObjectPath, bool]) -> bytes:
    path, is_folder = child
    return (path.key + "/" * is_folder).encode()


def _s3() -> Any:
    """pyarrow's client, with what the environment says to obstore; credentials it finds in the same places."""
    from pyarrow import fs

    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
    return fs.S3FileSystem(
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint_override=endpoint,
        scheme="http" if (endpoint or "").startswith("http://") else "https",
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        anonymous=os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"),
    )

"""Requests to object stores (S3, Google Cloud, Azure): one client for each bucket, its limits of time, and its errors.
Loads no torch; obstore when a client is made.

Credentials, region and endpoint come from the cloud's usual environment variables (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``GOOGLE_...``, ``AZURE_...``), for indexes and for what is indexed alike.
"""

from __future__ import annotations

import functools
import os
import re
from datetime import timedelta
from typing import Any

from puma.errors import DependencyError, StorageError, install_command

CONNECT_SECONDS, REQUEST_SECONDS, RETRY_SECONDS, RETRIES = 5, 60, 15, 3
_METADATA_HOSTS = ("169.254.169.254", "metadata.google.internal")
_CODE_AND_MESSAGE = re.compile(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>")


def without_tls() -> bool:
    """Whether the endpoint that the environment names is one of plain HTTP."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
    return any(os.environ.get(name, "").startswith("http://") for name in names)


@functools.lru_cache(maxsize=32)
def store_of(url: str) -> Any:
    """obstore's client of a bucket, or of what is below a name in one; the environment is read once a process.

    Raises:
        DependencyError: obstore is not installed.
    """
    try:
        from obstore.store import from_url
    except ImportError:
        raise DependencyError(f"{url}: an object store needs obstore: {install_command('object-store')}") from None
    clients: Any = {
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "timeout": f"{REQUEST_SECONDS}s",
        "allow_http": without_tls(),
    }
    return from_url(
        url,
        client_options=clients,
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def is_store_error(error: Exception) -> bool:
    """Whether an error is one that obstore raises: it has a kind for each way in which a request fails."""
    return type(error).__module__.startswith("obstore") or isinstance(error, (OSError, ValueError))


def is_refusal(error: Exception) -> bool:
    """Whether an error of LanceDB, which has no kinds, is a request that failed; not one for an object that is missing,
    which is a damaged table."""
    text = str(error)
    return "Error performing" in text and ("404 Not Found" not in text or "NoSuchBucket" in text)


def unusable(where: object, error: Exception) -> StorageError:
    """What to raise where the store as a whole does not do what it is asked."""
    return StorageError(
        f"{where}: the object store cannot be used ({reason(error)}); check the bucket, the credentials and the "
        "endpoint (AWS_ENDPOINT_URL and so on), then repeat"
    )


def reason(error: Exception) -> str:
    """An error of obstore in one line: the store's own code and message where it sent one.

    Examples:
        >>> reason(OSError("404 Not Found: <Error><Code>NoSuchBucket</Code><Message>It is not there</Message></Error>"))
        'NoSuchBucket: It is not there'
    """
    text = " ".join(str(error).partition("\n\nDebug")[0].split())
    if any(host in text for host in _METADATA_HOSTS):  # asked for a role where the environment gives no key
        return "the environment gives no credentials, and this machine has none of its own"
    found = _CODE_AND_MESSAGE.search(text)
    return f"{found[1]}: {found[2]}"[:300] if found else text[:300]

"""TLS to a Milvus server: whom to trust, and what a failed handshake means. Loads no pymilvus."""

from __future__ import annotations

import os
import re
import ssl

from puma.errors import InputError

CA, CERTIFICATE, KEY, NAME = "PUMA_MILVUS_CA", "PUMA_MILVUS_CERTIFICATE", "PUMA_MILVUS_KEY", "PUMA_MILVUS_SERVER_NAME"
_DETAIL = re.compile(r"OPENSSL_internal:(.*?)(?:: OK)?\"", re.IGNORECASE)


def tls_options(shown: str) -> dict[str, str]:
    """What pymilvus is to be given for ``milvus+https://``, from the environment: the file (PEM) of the authority that
    signed the server's certificate, for servers that ask for one a certificate of the client's own and its key, and the
    name in the server's certificate where it is not the address's host. Nothing for a server that the system trusts.

    Args:
        shown: the address, for messages.

    Raises:
        InputError: a file is missing or holds no such thing, or one of the variables goes with another.
    """
    given = {name: os.environ.get(name, "") for name in (CA, CERTIFICATE, KEY, NAME)}
    for one, other in ((CERTIFICATE, KEY), (KEY, CERTIFICATE), (CERTIFICATE, CA)):
        if given[one] and not given[other]:
            raise InputError(f"{shown}: {one} goes with {other}, which is not set")
    _check(shown, given)
    options = {"server_name": given[NAME]} if given[NAME] else {}
    if given[CERTIFICATE]:
        paths = {"ca_pem_path": given[CA], "client_pem_path": given[CERTIFICATE], "client_key_path": given[KEY]}
        return options | paths
    # pymilvus' word for the certificates that are trusted.
    return options | ({"server_pem_path": given[CA]} if given[CA] else {})


def _check(shown: str, given: dict[str, str]) -> None:
    """gRPC takes any file, and says of a wrong one only that no server can be reached."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if given[CA]:
            context.load_verify_locations(given[CA])
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{shown}: {CA}={given[CA]}: no certificates can be read from it ({_said(error)})") from None
    try:
        if given[CERTIFICATE]:
            context.load_cert_chain(given[CERTIFICATE], given[KEY])
    except (OSError, ssl.SSLError) as error:
        both = f"{CERTIFICATE}={given[CERTIFICATE]}, {KEY}={given[KEY]}"
        raise InputError(f"{shown}: {both}: no certificate and its key ({_said(error)})") from None


def _said(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)


def handshake_failure(text: str) -> str | None:
    """What gRPC's error, with all its causes, says of TLS, and the remedy; None where it says nothing of it.

    Examples:
        >>> handshake_failure("Hostname Verification Check failed")
        "the server's certificate is not for this host; write the host that it names, or set PUMA_MILVUS_SERVER_NAME"
    """
    low = text.lower()
    if "hostname verification" in low:
        return f"the server's certificate is not for this host; write the host that it names, or set {NAME}"
    if "wrong_version_number" in low:
        return "the server does not talk TLS; write milvus:// instead of milvus+https://"
    if "tsi_data_corrupted" in low or "certificate_required" in low:
        return f"the server wants a certificate of the client's that it trusts; set {CERTIFICATE} and {KEY}"
    if "handshake failed" in low:
        found = _DETAIL.search(text)
        detail = f" ({' '.join(found[1].split())})" if found else ""
        return f"the server's certificate is not trusted{detail}; set {CA} to the file of the authority that signed it"
    return None

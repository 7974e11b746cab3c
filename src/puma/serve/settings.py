"""What an operator can set about the service, with its limits. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from puma.errors import ConfigError

ANY_HOST = "*"
"""In ``hosts``: requests may be addressed to any name."""
ANY_ADDRESS = "ip"
"""In ``hosts``: requests may be addressed to any address in digits. A web page of another site cannot make a browser do
that with an address that is not its own, as it can with a name."""


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the service.

    Args:
        token: what clients must send as ``Authorization: Bearer``; None for an open service (loopback only).
        hosts: host names that requests may be addressed to (against DNS rebinding); :data:`ANY_HOST` for any,
            :data:`ANY_ADDRESS` for any address in digits. ``testserver`` is what in-process test clients say; ``puma
            serve`` leaves it out.
        cors_origins: web origins whose pages may call the service, as ``https://example.org``; ``*`` for any.
        model_names: names under which ``/v1/models`` lists the model; the first one is answered.
        originals: whether answers name the paths of items' files, and the files are served. For services that only
            people with an account on this machine can reach.
        writable: whether items may be added and deleted over HTTP.
        max_batch: items a forward pass.
        max_batch_images: images among them; few, so that a text does not wait long behind them.
        max_batch_pixels: of all images decoded at once; a larger image is decoded alone.
        max_wait_ms: how long the first item of a batch waits for company while the encoder is idle.
        max_queue: items that wait at most; beyond, requests are answered with 429. Of a large request ``max_batch``
            count, since it is embedded in parts, by turns with the others.
        timeout_s: a request that has waited this long for its next result is answered with 503.
        max_body_bytes: of one request.
        max_held_bytes: of all requests that are being received or answered; beyond, they are answered with 429.
        max_image_bytes: of one encoded image.
        max_image_pixels: of one image, read from its header before it is decoded.
        max_inputs: inputs of one request.
        max_k: hits of one answer.
        workers: threads that read and write the indexes.
        access_log: whether each request is logged.

    Raises:
        ConfigError: numbers below what makes sense, all of them named.
    """

    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]", "testserver")
    cors_origins: tuple[str, ...] = ()
    model_names: tuple[str, ...] = ("puma-mini",)
    originals: bool = False
    writable: bool = True
    max_batch: int = 64
    max_batch_images: int = 16
    max_batch_pixels: int = 40_000_000
    max_wait_ms: float = 4.0
    max_queue: int = 1024
    timeout_s: float = 30.0
    max_body_bytes: int = 32 * 2**20
    max_held_bytes: int = 256 * 2**20
    max_image_bytes: int = 20 * 2**20
    max_image_pixels: int = 40_000_000
    max_inputs: int = 2048
    max_k: int = 1000
    workers: int = 4
    access_log: bool = False

    def __post_init__(self) -> None:
        faults = [
            f"{entry.name}={value!r} must be {'at least 0' if entry.name == 'max_wait_ms' else 'above 0'}"
            for entry in fields(self)
            if isinstance(value := getattr(self, entry.name), (int, float)) and not isinstance(value, bool)
            if not (value >= 0 if entry.name == "max_wait_ms" else value > 0)
        ]
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            faults.append("token must be one or more printable ASCII characters")
        if not self.model_names:
            faults.append("model_names must hold at least one name")
        if faults:
            raise ConfigError(f"settings of the service: {'; '.join(faults)}")

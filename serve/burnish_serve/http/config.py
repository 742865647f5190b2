"""The settings of ``burnish serve``: every field is a flag of the command.

>>> ServeConfig().host
'127.0.0.1'
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

from burnish_serve.config import dataclass, setting
from burnish_serve.errors import InputError
from burnish_serve.providers import DEVICES, PROVIDERS
from burnish_serve.text import ON_LONG


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where to listen, who may ask, and how much.

    Raises:
        InputError: it would let everybody in from other machines, or half of a pair of files is missing.
    """

    host: str = setting("address to listen at", default="127.0.0.1")
    port: int = setting("port to listen at; 0 for any that is free", default=8080, minimum=0, below=65_536)
    admin_port: int | None = setting(
        "port of its own for /metrics, the probes and POST /v1/reload; where not given /metrics stands on the other",
        default=None,
        minimum=0,
        below=65_536,
    )
    admin_host: str = setting("address to listen at for --admin-port", default="127.0.0.1")
    workers: int = setting("processes that share the port, each with the bundles in its memory", default=1, minimum=1)
    opentelemetry: bool = setting(
        "send a span of each request by OTLP, to where OTEL_EXPORTER_OTLP_ENDPOINT says", default=False
    )
    tokens: Path | None = setting("file of bearer tokens, one a line, of which a request must bring one", default=None)
    allow_unauthenticated: bool = setting("let everybody in who reaches an address of other machines", default=False)
    tls_certificate: Path | None = setting("certificate chain (PEM), for https", default=None)
    tls_key: Path | None = setting("private key of the certificate (PEM)", default=None)
    max_body_bytes: int = setting("bytes of a request's body at the most", default=2**20, minimum=1)
    max_header_bytes: int = setting("bytes of a request's head at the most", default=2**14, minimum=256)
    max_texts: int = setting("rows of a request at the most", default=256, minimum=1)
    max_characters: int = setting("characters of a row at the most", default=100_000, minimum=1)
    max_waiting: int = setting(
        "rows that wait at the most; what comes then is refused with 429", default=1024, minimum=1
    )
    deadline: float = setting("seconds after which a request is not answered any more", default=10.0, minimum=0.001)
    slow_client: float = setting("seconds for a client to send a whole request", default=15.0, minimum=0.001)
    drain: float = setting(
        "seconds to finish what was accepted once the server is asked to end", default=25.0, minimum=0
    )
    device: str = setting("where to run", default="auto", choices=DEVICES)
    provider: str | None = setting(
        "execution provider of ONNX Runtime; implies the device", default=None, choices=tuple(PROVIDERS)
    )
    variant: str | None = setting("variant of the bundles; the manifest's default where not given", default=None)
    threads: int | None = setting(
        "batches at a time, of one thread each; this worker's share of the CPU quota where not given",
        default=None,
        minimum=1,
    )
    max_batch_tokens: int | None = setting(
        "padded tokens of one batch at the most; what was measured here, or suits the provider, where not given",
        default=None,
        minimum=1,
    )
    on_long: str | None = setting(
        "what becomes of a text that is longer than the model; the task's way where not given",
        default=None,
        choices=ON_LONG,
    )
    require_signature: Path | None = setting(
        "refuse a bundle that was not signed with the private half of this key", default=None
    )

    access_log: bool = setting("a line of JSON a request, without its texts", default=True)

    def __post_init__(self) -> None:
        """Check what hangs together."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("https needs both --tls-certificate and --tls-key")
        for host in (self.host, *([self.admin_host] if self.admin_port is not None else [])):
            if not (is_loopback(host) or self.tokens or self.allow_unauthenticated):
                raise InputError(
                    f"whoever reaches {host} could ask: give --tokens FILE, or --allow-unauthenticated if it is meant"
                )
        if self.workers > 1 and 0 in (self.port, self.admin_port):
            raise InputError("several workers share a port that is named: --port and --admin-port cannot be 0")


def is_loopback(host: str) -> bool:
    """Return whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"

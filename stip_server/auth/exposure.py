"""Refuses to serve other machines without TLS or authentication, unless --insecure is given."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from stip_server.errors import StartError


def check_tls_options(cert: Path | None, key: Path | None, client_ca: Path | None) -> None:
    """Check that the TLS options fit together. Raises StartError."""
    if cert is not None and key is None:
        raise StartError("--tls-cert needs --tls-key")
    if key is not None and cert is None:
        raise StartError("--tls-key needs --tls-cert")
    if client_ca is not None and cert is None:
        raise StartError("--client-ca needs --tls-cert and --tls-key")


def check_exposure(host: str, *, tls: bool, authenticated: bool, insecure: bool) -> str:
    """Refuse to listen beyond loopback without TLS or authentication. Raises StartError.

    `authenticated` means that callers need a token or a client certificate. With `insecure`,
    returns a warning instead of raising; the warning is empty if nothing is exposed.
    """
    if is_loopback(host) or (tls and authenticated):
        return ""
    missing, hints = [], []
    if not tls:
        missing.append("without TLS the wire is plain text")
        hints.append("--tls-cert FILE --tls-key FILE")
    if not authenticated:
        missing.append("without tokens or client certificates anyone may call")
        hints.append("--token-file FILE or --client-ca FILE")
    reached = f"{host or 'an empty host'} can be reached from other machines"
    exposed = f"{reached}: {' and '.join(missing)}"
    if insecure:
        return exposed
    hint = f"{', and '.join(hints)}; or --insecure to serve anyway"
    raise StartError(exposed, hint=hint)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address. False when in doubt."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Loads the server's certificate, its key and the CA of its clients, and reloads renewed files."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from threading import Lock
from typing import NoReturn

import grpc

from stip_server.auth import watched_file
from stip_server.errors import StartError

log = logging.getLogger(__name__)

# OpenSSL's reasons for a key of another certificate; the last one is OpenSSL 3's
KEY_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
PEM_CERTIFICATE_HINT = "PEM is required: it begins with -----BEGIN CERTIFICATE-----"
PEM_KEY_HINT = "PEM is required: it begins with -----BEGIN PRIVATE KEY----- or similar"


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """TLS credentials from a certificate chain and its key. Raises StartError.

    With `client_ca`, clients must present a certificate that one of its CAs has signed. New
    connections use renewed files without a restart. If renewed files are unusable, the old ones
    stay in use.
    """
    files = _TLSFiles(cert, key, client_ca)
    return grpc.dynamic_ssl_server_credentials(
        files.load(),
        files.load_if_changed,  # type: ignore[arg-type]  # the stubs do not allow None
        require_client_authentication=client_ca is not None,
    )


class _TLSFiles:
    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._stamps: list[watched_file.Stamp] = []
        # the versions that were refused last, to log each once
        self._refused: list[watched_file.Stamp] = []
        # gRPC calls from its own threads
        self._lock = Lock()

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files. Raises StartError."""
        # Before reading: the next call then sees a change that happens meanwhile.
        stamps = self._stamps_now()
        cert = watched_file.read(self._cert, "certificate", secret=False)
        key = watched_file.read(self._key, "key", secret=True)
        _check_certificates(self._cert)
        _check_pair(self._cert, self._key)
        client_ca = None
        if self._client_ca is not None:
            client_ca = watched_file.read(self._client_ca, "client CA", secret=False)
            _check_certificates(self._client_ca)
        self._stamps = stamps
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)

    def load_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Read renewed files. None keeps the loaded ones. gRPC calls it for each handshake."""
        with self._lock:
            stamps = self._stamps_now()
            if stamps == self._stamps:
                return None
            try:
                renewed = self.load()
            except StartError as error:
                if not isinstance(error, watched_file.UnreadableError):
                    self._stamps = stamps
                if stamps != self._refused:
                    log.error("%s; the certificate loaded before stays in use", error)
                self._refused = stamps
                return None
            log.info("loaded the renewed certificate %s", self._cert)
            return renewed

    def _stamps_now(self) -> list[watched_file.Stamp]:
        paths = (self._cert, self._key, self._client_ca)
        return [watched_file.stamp(path) for path in paths if path is not None]


def _check_certificates(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise StartError(f"{path} holds no certificate", hint=PEM_CERTIFICATE_HINT) from None
    except OSError as error:
        raise watched_file.UnreadableError(f"cannot read {path}: {error.strerror}") from error


def _check_pair(cert: Path, key: Path) -> None:
    def refuse_password() -> NoReturn:
        raise StartError(
            f"the key {key} is encrypted, and the server cannot ask for its password",
            hint=f"openssl pkey -in {key} -out PLAIN.key decrypts it; chmod 600 the result",
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, refuse_password)
    except ssl.SSLError as error:
        if error.reason in KEY_MISMATCH:
            raise StartError(
                f"the key {key} does not belong to the certificate {cert}",
                hint="the certificate must come first in its file, before the CAs of its chain",
            ) from None
        reason = f": {error.reason}" if error.reason else ""
        raise StartError(
            f"{key} holds no key that fits {cert}{reason}", hint=PEM_KEY_HINT
        ) from None
    except OSError as error:
        raise watched_file.UnreadableError(
            f"cannot read {cert} or {key}: {error.strerror}"
        ) from error

"""TLS files and the bearer token of a client.

Errors and reprs name files, never the content of a key or token file.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import grpc

from stip_client.errors import CredentialsError, SecretFilePermissionWarning

TOKEN = re.compile(r"[!-~]+")
MAX_BYTES = 1024 * 1024
# OpenSSL's reasons: the numbers differ, or one is RSA and the other is not (the last in OpenSSL 3)
KEY_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


@dataclass(frozen=True)
class TLS:
    """Speak TLS with the server.

    ca: PEM file of the authorities that may have signed the server's certificate; None: gRPC's
    default roots. cert and key: PEM files of the client's own certificate and its key, for a server
    that asks for one.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials for a channel; the files are read and checked now.

        Raises CredentialsError; warns with SecretFilePermissionWarning.
        """
        if (self.cert is None) != (self.key is None):
            raise CredentialsError("a client certificate and its key are needed together")
        ca = cert = key = None
        if self.ca is not None:
            ca = _read(Path(self.ca), "CA file")
            _check_certificates(Path(self.ca))
        if self.cert is not None and self.key is not None:
            cert = _read(Path(self.cert), "certificate")
            key = _read(Path(self.key), "key", secret=True)
            _check_certificates(Path(self.cert))
            _check_pair(Path(self.cert), Path(self.key))
        return grpc.ssl_channel_credentials(ca, key, cert)


def read_token(path: Path) -> str:
    """The token in the first line of a file.

    Raises CredentialsError; warns with SecretFilePermissionWarning.
    """
    content = _read(path, "token file", secret=True)
    try:
        return check_token(content.split(b"\n", 1)[0].decode().strip())
    except (UnicodeDecodeError, CredentialsError):
        raise CredentialsError(
            f"the first line of {path} is not a token",
            hint="a client's token file holds only the token, without a name",
        ) from None


def check_token(token: str) -> str:
    """The token, if it can be sent. Raises CredentialsError, which does not show it."""
    if not TOKEN.fullmatch(token):
        raise CredentialsError("the token is not one word of visible ASCII characters")
    return token


def _read(path: Path, what: str, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CredentialsError(
            f"cannot read the {what} {path}: {error.strerror}", hint="check the path"
        ) from error
    if len(content) > MAX_BYTES:
        raise CredentialsError(f"the {what} {path} has more than {MAX_BYTES} bytes")
    if secret and os.name == "posix" and mode & 0o077:
        warnings.warn(
            f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}",
            SecretFilePermissionWarning,
            stacklevel=3,
        )
    return content


def _check_certificates(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise CredentialsError(
            f"{path} holds no certificate",
            hint="PEM is wanted: it begins with -----BEGIN CERTIFICATE-----",
        ) from None


def _check_pair(cert: Path, key: Path) -> None:
    def refuse_password() -> NoReturn:
        raise CredentialsError(
            f"the key {key} is encrypted, which gRPC cannot read",
            hint=f"openssl pkey -in {key} -out PLAIN.key decrypts it; chmod 600 the result",
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, refuse_password)
    except ssl.SSLError as error:
        if error.reason in KEY_MISMATCH:
            raise CredentialsError(
                f"the key {key} does not belong to the certificate {cert}",
                hint="the certificate must come first in its file, before the CAs of its chain",
            ) from None
        reason = f": {error.reason}" if error.reason else ""
        raise CredentialsError(
            f"{key} holds no key that can be used with {cert}{reason}",
            hint="PEM is wanted: it begins with -----BEGIN PRIVATE KEY----- or the like",
        ) from None

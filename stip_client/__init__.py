"""The client: embeds a prompt, permutes it, streams it to a server and reads logits back.

Runs where MLX does not: it needs gRPC, NumPy, safetensors and tokenizers only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stip_client.aio import AsyncClient, AsyncSession
    from stip_client.client import Client, Session
    from stip_client.errors import (
        BundleError,
        ClientError,
        ConnectionLostError,
        ContextOverflowError,
        CredentialsError,
        HidesNothingWarning,
        RequestError,
        SecretFilePermissionWarning,
        ServerBusyError,
        ServerError,
        SessionLostError,
        UnauthenticatedError,
        WrongKeyError,
    )
    from stip_client.sampling.parameters import SamplingParameters
    from stip_client.session.generation import Piece
    from stip_client.transport.credentials import TLS
    from stip_client.transport.step_profile import StepProfile

__version__ = "0.1.0"

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncSession",
    "BundleError",
    "Client",
    "ClientError",
    "ConnectionLostError",
    "ContextOverflowError",
    "CredentialsError",
    "HidesNothingWarning",
    "Piece",
    "RequestError",
    "SamplingParameters",
    "SecretFilePermissionWarning",
    "ServerBusyError",
    "ServerError",
    "Session",
    "SessionLostError",
    "StepProfile",
    "UnauthenticatedError",
    "WrongKeyError",
]

# The module of each name; the other names are in errors. They are imported on first use, because
# the command line must silence gRPC before gRPC is imported.
_MODULES = {
    "aio": ("AsyncClient", "AsyncSession"),
    "client": ("Client", "Session"),
    "transport.credentials": ("TLS",),
    "session.generation": ("Piece",),
    "transport.step_profile": ("StepProfile",),
    "sampling.parameters": ("SamplingParameters",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

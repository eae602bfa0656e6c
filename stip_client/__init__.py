"""The client: embeds a prompt, permutes it, streams it to a server and reads logits back.

Runs where MLX does not: it needs gRPC, NumPy, safetensors and tokenizers only.
"""

from stip_client.aio import AsyncClient, AsyncSession
from stip_client.client import Client, Session
from stip_client.credentials import TLS
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
from stip_client.generation import Piece
from stip_client.profile import StepProfile
from stip_client.sampling import SamplingParameters

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

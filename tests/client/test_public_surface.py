"""The names and options that the library promises."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

import stip_client
from stip_client import AsyncClient, AsyncSession, Client, SamplingParameters, Session
from stip_client.session.client_core import ClientCore, ClientSettings
from stip_client.session.generation_options import GenerationParameters, Options

ERRORS = {
    "BundleError",
    "ClientError",
    "ConnectionLostError",
    "ContextOverflowError",
    "CredentialsError",
    "RequestError",
    "ServerBusyError",
    "ServerError",
    "SessionLostError",
    "UnauthenticatedError",
    "WrongKeyError",
}
WARNINGS = {"HidesNothingWarning", "SecretFilePermissionWarning"}
CLIENTS = {"AsyncClient", "AsyncSession", "Client", "Session"}
VALUES = {"Piece", "SamplingParameters", "StepProfile", "TLS"}


def test_the_package_exports_these_names_and_each_can_be_imported() -> None:
    assert set(stip_client.__all__) == ERRORS | WARNINGS | CLIENTS | VALUES
    for name in stip_client.__all__:
        assert getattr(stip_client, name).__name__ == name
    with pytest.raises(AttributeError, match="Nothing"):
        stip_client.Nothing  # noqa: B018


@pytest.mark.parametrize(("one", "twin"), [(Client, AsyncClient), (Session, AsyncSession)])
def test_both_clients_have_the_same_methods(one: type, twin: type) -> None:
    names = {name for name in dir(one) if not name.startswith("_")} - {"bundle", "targets"}
    for name in names:
        method = getattr(one, name)
        if not isinstance(method, property):
            mine, its = inspect.signature(method), inspect.signature(getattr(twin, name))
            assert mine.parameters == its.parameters, name


def test_the_options_are_the_fields_that_hold_their_defaults() -> None:
    parameters = {each.name for each in fields(GenerationParameters)} - {"sampling"}
    sampling = {each.name for each in fields(SamplingParameters)}
    assert set(Options.__annotations__) == parameters | sampling | {"wait"}
    settings = inspect.signature(ClientCore).parameters.values()
    keywords = {each.name for each in settings if each.kind is each.KEYWORD_ONLY}
    assert set(ClientSettings.__annotations__) == keywords


def test_a_refused_constructor_argument_is_named() -> None:
    with pytest.raises(TypeError, match="tokn"):
        Client("localhost:1", "bundles", tokn="x")  # type: ignore[call-arg]

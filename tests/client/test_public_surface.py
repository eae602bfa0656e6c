"""The names and options that the library promises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

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
SETTINGS = inspect.signature(ClientCore).parameters
SAMPLING = fields(SamplingParameters)
VALUES = {"Piece", "SamplingParameters", "StepProfile", "TLS"}


def test_the_package_exports_these_names_and_each_can_be_imported() -> None:
    assert set(stip_client.__all__) == ERRORS | WARNINGS | CLIENTS | VALUES
    for name in stip_client.__all__:
        assert getattr(stip_client, name).__name__ == name
    with pytest.raises(AttributeError, match="Nothing"):
        stip_client.Nothing  # noqa: B018


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_both_clients_show_the_same_names(tiny_bundles: Path) -> None:
    client = Client("localhost:1", tiny_bundles / "client")
    twin = AsyncClient("localhost:1", tiny_bundles / "client")
    assert public(dir(client)) == public(dir(twin)) > {"bundle", "targets", "generate"}
    session = AsyncSession(SimpleNamespace(core=None), None)  # type: ignore[arg-type]
    assert public(dir(session)) == public(dir(Session(session))) > {"tokens", "step"}


@pytest.mark.parametrize(("one", "twin"), [(Client, AsyncClient), (Session, AsyncSession)])
def test_both_clients_have_the_same_methods(one: type, twin: type) -> None:
    for name in public(dir(one)):
        method = getattr(one, name)
        if not isinstance(method, property):
            mine, its = inspect.signature(method), inspect.signature(getattr(twin, name))
            assert mine.parameters == its.parameters, name


def test_the_options_are_the_fields_that_hold_their_defaults() -> None:
    parameters = {each.name for each in fields(GenerationParameters)} - {"sampling"}
    sampling = {each.name for each in SAMPLING}
    assert set(Options.__annotations__) == parameters | sampling | {"wait"}
    keywords = {name for name, each in SETTINGS.items() if each.kind is each.KEYWORD_ONLY}
    assert set(ClientSettings.__annotations__) == keywords


@pytest.mark.parametrize(
    ("described", "defaults", "count"),
    [
        (Client, {name: each.default for name, each in SETTINGS.items()}, 4),
        (
            Client.generate,
            {each.name: each.default for each in (*fields(GenerationParameters), *SAMPLING)},
            6,
        ),
    ],
)
def test_the_defaults_in_the_docstrings_are_those_of_the_code(
    described: object, defaults: dict[str, object], count: int
) -> None:
    written = dict(re.findall(r"(\w+)\s\(([\d.]+)[:)]", inspect.getdoc(described) or ""))
    assert len(written) == count
    assert {name: float(value) for name, value in written.items()} == {
        name: defaults[name] for name in written
    }


def test_a_refused_constructor_argument_is_named() -> None:
    with pytest.raises(TypeError, match="tokn"):
        Client("localhost:1", "bundles", tokn="x")  # type: ignore[call-arg]

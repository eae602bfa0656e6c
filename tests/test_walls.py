"""The walls between rooms: what .importlinter allows holds, and each kind of rule refuses."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import grimp
import pytest
from grimp import ImportGraph

from tests.support.walls import Walls

ROOT = Path(__file__).parents[1]
ROOMS = """
    house.__init__: house.cellar
    house.cellar:
    house.kitchen: house.cellar, house.hall.door
    house.hall: house.kitchen, !house.cellar.wine, !stove
    house.attic: house, shed, !stove
    shed:
"""
LIBRARIES = """
    stove: house.kitchen
    water: house
"""


@pytest.fixture
def graph() -> ImportGraph:
    """A house that keeps its rules."""
    graph = grimp.ImportGraph()
    for module in (
        "house",
        "house.cellar",
        "house.cellar.wine",
        "house.kitchen",
        "house.kitchen.pan",
    ):
        graph.add_module(module)
    for module in ("house.hall", "house.hall.door", "house.attic", "shed"):
        graph.add_module(module)
    for module in ("stove", "water", "json"):
        graph.add_module(module, is_squashed=True)
    for importer, imported in (
        ("house", "house.cellar"),
        ("house.kitchen.pan", "house.kitchen"),
        ("house.kitchen.pan", "house.cellar"),
        ("house.kitchen", "house.hall.door"),
        ("house.attic", "shed"),
        ("house.cellar.wine", "water"),
        ("house.cellar.wine", "json"),
    ):
        add_import(graph, importer, imported)
    return graph


def add_import(graph: ImportGraph, importer: str, imported: str) -> None:
    graph.add_import(
        importer=importer, imported=imported, line_number=7, line_contents=f"import {imported}"
    )


def broken(
    graph: ImportGraph, *, rooms: str = ROOMS, libraries: str = LIBRARIES, partial: bool = False
) -> list[str]:
    options = {
        "rooms": [line for line in map(str.strip, rooms.splitlines()) if line],
        "libraries": [line for line in map(str.strip, libraries.splitlines()) if line],
        "partial": str(partial),
    }
    contract = Walls("walls", {"root_packages": ["house", "shed"]}, options)
    check = contract.check(graph, verbose=False)
    assert check.kept == (not check.metadata["broken"])
    return list(check.metadata["broken"])


def test_what_the_lines_allow_is_kept(graph: ImportGraph) -> None:
    assert broken(graph) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("house.cellar.wine", "house.kitchen"),  # its line is empty
        ("house.kitchen.pan", "house.hall"),  # only a file of the room is allowed
        ("house.kitchen", "house"),  # the package's own file is not the package
        ("house.kitchen", "shed"),  # another package
        ("house", "house.attic"),
        ("house.cellar", "stove"),  # a library that another room may import
    ],
)
def test_an_import_without_an_entry_is_refused(
    graph: ImportGraph, importer: str, imported: str
) -> None:
    add_import(graph, importer, imported)
    (found,) = broken(graph)
    assert f"may not import {imported}" in found and importer in found and "line 7" in found


@pytest.mark.parametrize("new", ["house.study", "house.study.desk"])
def test_a_new_file_without_a_line_is_refused(graph: ImportGraph, new: str) -> None:
    graph.add_module(new)
    assert broken(graph) == [f"{new} has no line: give its room one"]
    assert broken(graph, partial=True) == []


def test_a_new_file_keeps_its_room_s_line(graph: ImportGraph) -> None:
    graph.add_module("house.cellar.shelf")
    assert broken(graph) == []
    add_import(graph, "house.cellar.shelf", "house.attic")
    assert "house.cellar.shelf may not import house.attic" in broken(graph)[0]


def test_an_unknown_library_is_refused_and_the_standard_one_is_not(graph: ImportGraph) -> None:
    graph.add_module("requests", is_squashed=True)
    add_import(graph, "house.attic", "requests")
    add_import(graph, "house.attic", "json")
    assert broken(graph) == ["house.attic may not import requests (line 7)"]
    assert broken(graph, libraries="") == []


def test_a_refused_library_is_refused_through_other_rooms(graph: ImportGraph) -> None:
    add_import(graph, "house.kitchen.pan", "stove")
    assert broken(graph) == []
    add_import(graph, "house.attic", "house.kitchen.pan")
    chain = "house.attic -> house.kitchen.pan -> stove"
    assert broken(graph) == [f"house.attic may not reach stove: {chain}"]


def test_a_refused_room_is_refused_through_other_rooms(graph: ImportGraph) -> None:
    add_import(graph, "house.kitchen", "house.cellar.wine")
    assert broken(graph) == []
    add_import(graph, "house.hall", "house.kitchen")
    chain = "house.hall -> house.kitchen -> house.cellar.wine"
    assert broken(graph) == [f"house.hall may not reach house.cellar.wine: {chain}"]


def test_a_line_of_a_room_that_has_gone_is_an_error(graph: ImportGraph) -> None:
    assert broken(graph, rooms=ROOMS + "house.stable:") == [
        "line house.stable: there is no house.stable"
    ]
    gone = ROOMS.replace("house.kitchen: house.cellar", "house.kitchen: house.stable, house.cellar")
    assert broken(graph, rooms=gone) == ["line house.kitchen: there is no house.stable"]


@pytest.fixture(scope="module")
def lines() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser


@pytest.fixture(scope="module")
def product(lines: ConfigParser) -> ImportGraph:
    """The product's own imports."""
    packages = lines["importlinter"]["root_packages"].split()
    return grimp.build_graph(*packages, include_external_packages=True, cache_dir=None)


def product_walls(lines: ConfigParser, product: ImportGraph) -> set[str]:
    """What is broken in the product."""
    session = {"root_packages": lines["importlinter"]["root_packages"].split()}
    found: set[str] = set()
    for section in lines.sections():
        if section.startswith("importlinter:contract:"):
            contract = lines[section]
            options = {
                name: [*filter(None, contract.get(name, "").splitlines())]
                for name in ("rooms", "libraries")
            }
            options["partial"] = contract.get("partial", "False")
            found.update(Walls(section, session, options).check(product, False).metadata["broken"])
    return found


@pytest.fixture(scope="module")
def broken_now(lines: ConfigParser, product: ImportGraph) -> set[str]:
    return product_walls(lines, product)


def test_the_product_keeps_its_walls(broken_now: set[str]) -> None:
    assert broken_now == set()


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("stip_client.sampling.sampler", "stip_client.session"),
        ("stip_client.session", "stip_client.gateway"),
        ("stip_client.bundle", "stip_keys.convert"),
        ("stip_client.bundle", "stip_model.operations.mlx"),
        ("stip_keys.masks", "stip_keys.convert"),
        ("stip_keys.masks", "stip_keys.audit"),
        ("stip_model.bundle", "stip_server.errors"),
        ("stip_server.engine.engine", "mlx"),
        ("stip_server.engine.scheduler", "stip_server.engine.engine"),
        ("stip_server.observe", "stip_server.sessions"),
        ("stip_server.rpc", "stip_client.errors"),
        ("stip_server.rpc", "stip_keys.masks"),
        ("stip_server.sessions", "tokenizers"),
    ],
)
def test_the_product_s_walls_refuse(
    lines: ConfigParser,
    product: ImportGraph,
    broken_now: set[str],
    importer: str,
    imported: str,
) -> None:
    """Each import is one that the product must never have. It is added to the graph."""
    add_import(product, importer, imported)
    new = product_walls(lines, product) - broken_now
    product.remove_import(importer=importer, imported=imported)
    assert any(importer in text and imported in text for text in new)

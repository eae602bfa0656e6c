"""An import-linter contract: each room imports only what its line allows (.importlinter).

A line is `room: allowed, allowed, !refused`. A room is a module with everything below it; where
rooms lie in each other, the inner line counts. A root package's own file is `package.__init__`.

- Imports inside a room are allowed. An import of ours that leaves a room needs an entry: a module,
  which allows everything below it as well.
- `!name` refuses a module or a library that is reached in any number of steps.
- A module of ours without a line is refused, unless `partial` is set.
- A line of `libraries` names the rooms that import a library directly. With any such line, every
  library outside the standard one needs a line.
- A line that names a module of ours which does not exist is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class Walls(Contract):
    """Allow-lists, one line a room."""

    type_name = "walls"
    rooms = fields.ListField(subfield=fields.StringField())
    libraries = fields.ListField(subfield=fields.StringField(), default=())
    partial = fields.BooleanField(default=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002
        """Check the graph; the broken rules are in metadata["broken"]."""
        broken = [*self._stale(graph), *self._direct(graph), *self._reached(graph)]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line a broken rule."""
        for text in check.metadata["broken"]:
            output.print_error(text)

    @property
    def _roots(self) -> list[str]:
        return list(self.session_options["root_packages"])

    def _name(self, module: str) -> str:
        return f"{module}.__init__" if module in self._roots else module

    def _is_ours(self, module: str) -> bool:
        return module.partition(".")[0] in self._roots

    def _stale(self, graph: ImportGraph) -> Iterator[str]:
        lines = {**_lines(self.rooms), **_lines(self.libraries)}
        for room, entries in lines.items():
            for name in (room, *(entry.removeprefix("!") for entry in entries)):
                module = name.removesuffix(".__init__")
                if self._is_ours(module) and module not in graph.modules:
                    yield f"line {room}: there is no {name}"

    def _direct(self, graph: ImportGraph) -> Iterator[str]:
        rooms, libraries = _lines(self.rooms), _lines(self.libraries)
        for module in sorted(filter(self._is_ours, graph.modules)):
            name = self._name(module)
            room = max((room for room in rooms if _within(name, room)), key=len, default=None)
            if room is None and not self.partial:
                yield f"{name} has no line: give its room one"
            for imported in sorted(graph.find_modules_directly_imported_by(module)):
                target = self._name(imported)
                if self._is_ours(imported):
                    allowed = room is None or _any_within(target, [room, *rooms[room]])
                elif not libraries or imported in sys.stdlib_module_names:
                    allowed = True
                else:
                    allowed = _any_within(name, libraries.get(imported, []))
                if not allowed:
                    (details, *_) = graph.get_import_details(importer=module, imported=imported)
                    yield f"{name} may not import {target} (line {details['line_number']})"

    def _reached(self, graph: ImportGraph) -> Iterator[str]:
        for room, entries in _lines(self.rooms).items():
            for refused in (entry[1:] for entry in entries if entry.startswith("!")):
                if {room, refused} <= graph.modules:
                    chain = graph.find_shortest_chain(room, refused, as_packages=True)
                    if chain:
                        yield f"{room} may not reach {refused}: {' -> '.join(chain)}"


def _lines(lines: Any) -> dict[str, list[str]]:
    parted = (line.partition(":") for line in lines)
    return {
        name.strip(): [*filter(None, map(str.strip, rest.split(",")))] for name, _, rest in parted
    }


def _within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def _any_within(name: str, rooms: list[str]) -> bool:
    return any(_within(name, room) for room in rooms)

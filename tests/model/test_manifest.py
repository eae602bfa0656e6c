"""Every party reads manifests by one rule: known fields and known values, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from stip.v1.manifest_pb2 import Manifest
from stip_client import BundleError as ClientBundleError
from stip_client.bundle.client_bundle import ClientBundle
from stip_keys.inspection import inspect
from stip_model.bundle.manifest import ENUMS, ServerBundle
from stip_model.errors import BundleError

READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "server": (ServerBundle, "server"),
    "client": (ClientBundle, "client"),
    "developer of a server bundle": (inspect, "server"),
    "developer of a client bundle": (inspect, "client"),
}
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(params=list(READERS))
def read_edited(
    request: pytest.FixtureRequest, tiny_bundles: Path, tmp_path: Path
) -> Callable[[Edit], object]:
    """What reads a bundle as one party does, after an edit of its manifest."""
    reader, kind = READERS[request.param]

    def read(edit: Edit) -> object:
        folder = shutil.copytree(tiny_bundles / kind, tmp_path / kind)
        path = folder / "manifest.json"
        content = json.loads(path.read_bytes())
        edit(content)
        path.write_text(json.dumps(content))
        return reader(folder)

    return read


def in_camel_case(content: dict[str, Any]) -> None:
    manifest = json_format.ParseDict(content, Manifest())
    content.clear()
    content.update(json_format.MessageToDict(manifest))
    assert "formatVersion" in content


def by_number(content: dict[str, Any]) -> None:
    manifest = json_format.ParseDict(content, Manifest())
    content.update({field: getattr(manifest, field) for field in ENUMS})


ACCEPTED: dict[str, Edit] = {
    "field names in lowerCamelCase": in_camel_case,
    "enum values by number": by_number,
    "no head: the server's": lambda content: content.pop("head"),
    "a null stands for no value": lambda content: content.update(head=None),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_known_fields_and_values_are_accepted(
    name: str, read_edited: Callable[[Edit], object]
) -> None:
    read_edited(ACCEPTED[name])


REFUSED: dict[str, tuple[Edit, str]] = {
    "a later field": (lambda content: content.update(sliding_window=4096), "sliding_window"),
    "a later field without a value": (lambda content: content.update(softcap=None), "softcap"),
    "a later field of the model": (
        lambda content: content["model"].update(num_experts=8),
        "num_experts",
    ),
    "a later field of a file": (
        lambda content: content["files"][0].update(compression="none"),
        "compression",
    ),
    **{
        f"a {field} of a later {how}": (
            lambda content, field=field, value=value: content.update({field: value}),
            f"{field}.*known: {', '.join(ENUMS[field])}",
        )
        for field in ENUMS
        for how, value in (("name", f"{field.upper()}_LATER"), ("number", 9))
    },
    **{
        f"no {field}": (lambda content, field=field: content.pop(field), f"{field} 0 is not known")
        for field in ("kind", "scheme", "dtype")
    },
    "integers for weights": (lambda content: content.update(dtype="DATA_TYPE_INT32"), "dtype 4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_fields_and_values_are_refused(
    name: str, read_edited: Callable[[Edit], object]
) -> None:
    edit, says = REFUSED[name]
    with pytest.raises((BundleError, ClientBundleError), match=says):
        read_edited(edit)

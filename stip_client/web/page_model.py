"""Model folders that the page loads: a client, and the masks that the Key Center shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stip_client.aio import AsyncClient
from stip_client.errors import BundleError, RequestError
from stip_client.session.client_core import ClientSettings
from stip_client.web.shown_masks import (
    ShownMask,
    check_belongs,
    input_blocks,
    input_mask,
    layer_permutations,
    output_masks,
    residual_permutations,
)
from stip_keys.masks.keys import MasterKey

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PageModel:
    """A loaded model folder. All tabs that load it share its client.

    `layer` and `residuals` are empty without the developer's master key; `blocks` then holds the
    further blocks of the input permutation. `outputs`: the masks of what the server sends back.
    """

    folder: Path
    client: AsyncClient
    input: ShownMask
    outputs: Sequence[ShownMask] = ()
    blocks: Sequence[ShownMask] = ()
    layer: Sequence[ShownMask] = ()
    residuals: Sequence[ShownMask] = ()


class ModelLoader:
    """Loads each model folder once while it does not change."""

    def __init__(
        self,
        server: str,
        access: ClientSettings,
        master: MasterKey | None,
        *,
        only: Path | None = None,
    ) -> None:
        """`only`: the one folder to load if other people can reach the page; None: any folder."""
        self._server = server
        self._access = access
        self._master = master
        self._only = only
        self._loaded: dict[tuple[Path, int], PageModel] = {}

    @property
    def fixed(self) -> bool:
        """Whether only one folder may be loaded."""
        return self._only is not None

    def load(self, text: str) -> PageModel:
        """Load OUT or OUT/client.

        Raises ClientError if the folder is no client bundle or was made with another master key.
        """
        if not text.strip():
            raise RequestError(
                "no model folder is given", hint="give the folder that stip-keys convert wrote"
            )
        folder = client_folder(Path(text.strip()).expanduser())
        if self._only is not None and folder.resolve() != client_folder(self._only).resolve():
            raise RequestError("this page loads no folder but the one it was started with")
        try:
            changed = (folder / MANIFEST).stat().st_mtime_ns
        except OSError as error:
            raise BundleError(
                f"there is no model in {folder}: {error.strerror}",
                hint="load the folder that stip-keys convert wrote, or its client folder",
            ) from error
        found = self._loaded.get((folder.resolve(), changed))
        if found is None:
            found = self._open(folder)
            self._loaded[folder.resolve(), changed] = found
        return found

    async def close(self) -> None:
        """Close every client."""
        for each in self._loaded.values():
            await each.client.close()

    def _open(self, folder: Path) -> PageModel:
        client = AsyncClient(self._server, folder, **self._access)
        bundle = client.bundle
        shown, outputs = input_mask(bundle), output_masks(bundle)
        if self._master is None:
            return PageModel(folder, client, shown, outputs, blocks=input_blocks(bundle))
        check_belongs(self._master, bundle.manifest)
        return PageModel(
            folder,
            client,
            shown,
            outputs,
            layer=layer_permutations(self._master, bundle.manifest),
            residuals=residual_permutations(self._master, bundle.manifest),
        )


def client_folder(folder: Path) -> Path:
    """The client bundle in the folder that stip-keys convert wrote, or the folder itself."""
    inner = folder / "client"
    return inner if not (folder / MANIFEST).exists() and inner.is_dir() else folder

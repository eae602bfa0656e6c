"""Converts a checkpoint to a server bundle and a client bundle, one row range at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stip.v1.manifest_pb2 import BundleFile, BundleKind, Manifest, Scheme
from stip_keys.architectures import architecture
from stip_keys.architectures.base import Axes, Space, extent
from stip_keys.bundle import (
    FORMAT_VERSION,
    SafetensorsWriter,
    bundle_id,
    describe_file,
    write_manifest,
)
from stip_keys.checkpoint import Checkpoint, StoredTensor
from stip_keys.converted import ConvertedTensor
from stip_keys.derivation import Indices
from stip_keys.dtypes import WEIGHT_TYPES, WeightType
from stip_keys.errors import BundleError, CheckpointError, KeysError
from stip_keys.keyfile import write_client_key, write_master_key
from stip_keys.keys import ClientKey, MasterKey
from stip_keys.output import no_space_is_an_error, temporary_folder
from stip_keys.permutation import IDENTITY, Gather
from stip_keys.signing import SigningKey, sign_bundle
from stip_keys.spaces import PermutationSpaces, check_blocks, default_blocks

# What a client needs beside its key and the table, where the checkpoint has it.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
TAU = "tau"


class Progress(Protocol):
    """What tqdm offers: told how many bytes have been written."""

    def update(self, n: int) -> object: ...


class _Silent:
    def update(self, n: int) -> None:
        pass


@dataclass(frozen=True)
class Settings:
    """How to convert. `key` None with scheme "permutation" is an error of the caller."""

    scheme: str = "permutation"
    key: MasterKey | None = None
    blocks: int | None = None
    dtype: str = "auto"


@dataclass(frozen=True)
class Conversion:
    """What a conversion made."""

    server: Manifest
    client: Manifest


class Converter:
    """One conversion, checked as far as headers allow before anything is written.

    Raises CheckpointError naming an unknown, missing or misshapen tensor, KeysError for a block
    count that does not divide hidden_size.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._checkpoint = checkpoint
        self._settings = settings
        self._config = checkpoint.config
        self._architecture = architecture(self._config.model_type)
        self._blocks = default_blocks(self._config) if settings.blocks is None else settings.blocks
        if settings.scheme == "none":
            check_blocks(self._config.hidden_size, self._blocks)
            self._spaces = None
            self.client_key = ClientKey.identity(self._config.hidden_size)
        elif settings.scheme == "permutation" and settings.key is not None:
            self._spaces = PermutationSpaces(settings.key, self._config, self._blocks)
            self.client_key = settings.key.client_key(self._config.hidden_size, self._blocks)
        else:
            raise KeysError(f"scheme {settings.scheme!r} without a key")
        self._check_tensors()

    @property
    def total_bytes(self) -> int:
        """Bytes of weights that the two bundles will hold."""
        layers = range(self._config.num_hidden_layers)
        tensors = [tensor for layer in layers for tensor in self._layer_tensors(layer, {})]
        tensors += [*self._non_layer_tensors({}), self._embedding()]
        return sum(tensor.size for tensor in tensors)

    def write(
        self,
        output: Path,
        *,
        progress: Progress | None = None,
        master_key: MasterKey | None = None,
        base_seed: int | None = None,
        signing_key: SigningKey | None = None,
    ) -> Conversion:
        """Write output/server and output/client, and output/master.key where `master_key` is given.

        With a `signing_key` both bundles are signed.

        Everything is written into a temporary folder beside `output`, which is renamed when it is
        complete and removed when anything fails. Raises BundleError.
        """
        with no_space_is_an_error(output):
            if output.exists():
                raise BundleError(f"{output} already exists", hint="choose another folder with -o")
            output.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(output) as folder:
                if master_key is not None:
                    write_master_key(folder / "master.key", master_key, base_seed=base_seed)
                conversion = self._write_bundles(folder, progress or _Silent())
                if signing_key is not None:
                    sign_bundle(folder / "server", signing_key)
                    sign_bundle(folder / "client", signing_key)
                folder.rename(output)
        return conversion

    # -- tensors ---------------------------------------------------------------------------

    def _expected(self) -> Mapping[str, Axes]:
        """Every tensor of the checkpoint that goes to the server, with its axes."""
        expected: dict[str, Axes] = {}
        for layer in range(self._config.num_hidden_layers):
            prefix = self._architecture.layer_prefix.format(layer=layer)
            for name, axes in self._architecture.layer_tensors(self._config).items():
                expected[prefix + name] = axes
        expected[self._architecture.final_norm] = (Space.RESIDUAL_IN,)
        expected[self._architecture.head] = (Space.VOCABULARY, Space.RESIDUAL_IN)
        return expected

    def _check_tensors(self) -> None:
        found = self._checkpoint.tensors
        expected = dict(self._expected())
        expected[self._architecture.embedding] = (Space.VOCABULARY, Space.RESIDUAL_IN)
        if self._config.tie_word_embeddings and self._architecture.head not in found:
            del expected[self._architecture.head]
        for name, axes in expected.items():
            if name not in found:
                raise CheckpointError(f"tensor {name} is missing from the checkpoint")
            shape = tuple(extent(axis, self._config) for axis in axes)
            if found[name].shape != shape:
                raise CheckpointError(
                    f"tensor {name} has shape {list(found[name].shape)}, "
                    f"config.json implies {list(shape)}"
                )
        for name in found:
            if name not in expected and not name.endswith(self._architecture.ignored):
                raise CheckpointError(
                    f"tensor {name} is unknown in a {self._config.model_type} checkpoint",
                    hint="converting it away silently could change the model's answers",
                )

    def _dtype(self, source: StoredTensor) -> WeightType:
        if self._settings.dtype == "auto":
            return source.dtype
        return WEIGHT_TYPES[self._settings.dtype]

    def _converted(
        self, name: str, source_name: str, axes: Axes, gathers: Mapping[Space, Gather]
    ) -> ConvertedTensor:
        source = self._checkpoint.tensors[source_name]
        sides = [gathers.get(axis, IDENTITY) for axis in axes]
        columns = sides[1] if len(sides) > 1 else IDENTITY
        if columns.negate is not None:
            raise KeysError(f"{name}: signs on the columns of a tensor are not supported")
        return ConvertedTensor(name, source, self._dtype(source), sides[0], columns)

    def _layer_tensors(self, layer: int, gathers: Mapping[Space, Gather]) -> list[ConvertedTensor]:
        prefix = self._architecture.layer_prefix.format(layer=layer)
        return [
            self._converted(prefix + name, prefix + name, axes, gathers)
            for name, axes in self._architecture.layer_tensors(self._config).items()
        ]

    def _non_layer_tensors(self, gathers: Mapping[Space, Gather]) -> list[ConvertedTensor]:
        norm, head = self._architecture.final_norm, self._architecture.head
        # where the head is tied, a head that the checkpoint stores all the same is not read
        source = self._architecture.embedding if self._config.tie_word_embeddings else head
        return [
            self._converted(norm, norm, (Space.RESIDUAL_IN,), gathers),
            self._converted(head, source, (Space.VOCABULARY, Space.RESIDUAL_IN), gathers),
        ]

    def _embedding(self) -> ConvertedTensor:
        name = self._architecture.embedding
        source = self._checkpoint.tensors[name]
        return ConvertedTensor(name, source, self._dtype(source))

    # -- files -----------------------------------------------------------------------------

    def _write_bundles(self, folder: Path, progress: Progress) -> Conversion:
        server, client = folder / "server", folder / "client"
        server.mkdir()
        client.mkdir(mode=0o700)

        layers = self._config.num_hidden_layers
        files: list[BundleFile] = []
        width = max(2, len(str(layers - 1)))
        for layer in range(layers):
            path = server / f"layer_{layer:0{width}}.safetensors"
            gathers = self._spaces.layer(layer) if self._spaces else {}
            tau = self._spaces.tau(layer) if self._spaces else None
            prefix = self._architecture.layer_prefix.format(layer=layer)
            tensors = self._layer_tensors(layer, gathers)
            files.append(_write_file(path, tensors, progress, prefix, tau))
        gathers = {Space.RESIDUAL_IN: Gather(self._spaces.residual(layers))} if self._spaces else {}
        path = server / "non_layer_part_00.safetensors"
        files.append(_write_file(path, self._non_layer_tensors(gathers), progress))

        manifest = Manifest(
            format_version=FORMAT_VERSION,
            kind=BundleKind.BUNDLE_KIND_SERVER,
            bundle_id=bundle_id(files),
            model=self._config,
            dtype=self._embedding().dtype.wire,
            scheme=Scheme.SCHEME_PERMUTATION if self._spaces else Scheme.SCHEME_NONE,
            key_id=self.client_key.key_id,
            residual_blocks=self._blocks if self._spaces else 1,
            files=files,
        )
        write_manifest(server, manifest)

        client_manifest = Manifest()
        client_manifest.CopyFrom(manifest)
        client_manifest.kind = BundleKind.BUNDLE_KIND_CLIENT
        client_manifest.eos_token_ids.extend(self._checkpoint.eos_token_ids())
        del client_manifest.files[:]
        client_manifest.files.extend(self._write_client_files(client, progress))
        write_manifest(client, client_manifest)
        return Conversion(manifest, client_manifest)

    def _write_client_files(self, client: Path, progress: Progress) -> Iterator[BundleFile]:
        yield _write_file(client / "embeddings.safetensors", [self._embedding()], progress)
        write_client_key(client / "client.key", self.client_key)
        yield describe_file(client / "client.key")
        for each in TOKENIZER_FILES:
            if (self._checkpoint.folder / each).is_file():
                shutil.copyfile(self._checkpoint.folder / each, client / each)
                yield describe_file(client / each)


def _write_file(
    path: Path,
    tensors: list[ConvertedTensor],
    progress: Progress,
    prefix: str = "",
    tau: Indices | None = None,
) -> BundleFile:
    listed = [(each.name, each.dtype.safetensors, each.source.shape, each.size) for each in tensors]
    if tau is not None:
        listed.append((prefix + TAU, "I32", tau.shape, 4 * len(tau)))
    writer = SafetensorsWriter(path, listed)
    try:
        for tensor in tensors:
            for values in tensor.ranges():
                writer.write(values)
                progress.update(values.nbytes)
        if tau is not None:
            writer.write(tau.astype("<i4"))
        return writer.finish()
    finally:
        writer.close()

"""What the bundles of a model hold: every file, its tensors, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.checkpoint import StoredTensor
from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.families import architecture
from stip_keys.convert.families.family import NORMS, Axes, Space, extent
from stip_keys.convert.schemes.masked_tensor import GatheredTensor, MaskedTensor, SourceTensor
from stip_keys.convert.schemes.masking import Masking
from stip_keys.masks.derivation import Indices
from stip_model.bundle.weight_types import WEIGHT_TYPES, WeightType

TAU = "tau"
HEAD_AXES = (Space.VOCABULARY, Space.RESIDUAL_IN)


@dataclass(frozen=True)
class PlannedFile:
    """One safetensors file: its tensors in order, and its tau with the tau's name, if any."""

    name: str
    tensors: Sequence[MaskedTensor]
    tau: tuple[str, Indices] | None = None


class Plan:
    """The files of the two bundles of one model under one masking."""

    def __init__(
        self,
        config: ModelConfig,
        sources: Mapping[str, StoredTensor],
        masking: Masking[Any],
        *,
        head: str = "server",
        dtype: str = "auto",
    ) -> None:
        self._config = config
        self._sources = sources
        self._masking = masking
        self._head = head
        self._dtype_name = dtype
        self._architecture = architecture(config.model_type)

    def server_files(self) -> Iterator[PlannedFile]:
        """The server bundle's files. Each layer is planned when the iterator reaches it."""
        layers = self._config.num_hidden_layers
        width = max(2, len(str(layers - 1)))
        for layer in range(layers):
            yield self._layer_file(layer, f"layer_{layer:0{width}}.safetensors")
        if self._head != "client":
            names, spaces = self._architecture, self._masking.final()
            tensors = [
                self._made(names.final_norm, "", (Space.RESIDUAL_IN,), spaces),
                self._made(names.head, "", HEAD_AXES, spaces),
            ]
            yield PlannedFile("non_layer_part_00.safetensors", [each for each in tensors if each])

    def client_files(self) -> Iterator[PlannedFile]:
        """The client bundle's files: the embedding table, and the head where clients hold it."""
        names = self._architecture
        yield PlannedFile("embeddings.safetensors", [self._plain(names.embedding)])
        if self._head == "client":
            tensors = [self._plain(names.final_norm)]
            if not self._config.tie_word_embeddings:
                tensors.append(self._plain(names.head))
            yield PlannedFile("head.safetensors", tensors)

    @property
    def dtype(self) -> WeightType:
        """The type of the bundles' weights: the embedding table's."""
        return self._dtype(self._sources[self._architecture.embedding])

    def check(self, *, converted: bool = False) -> None:
        """Compare the sources with what the model type has.

        `converted` means that the sources are a server bundle's. That has no embedding table, and
        it has a final norm and a head only where the server computes logits. Raises
        CheckpointError naming a tensor that is unknown, missing or misshapen.
        """
        found, names = self._sources, self._architecture
        expected: dict[str, Axes] = {}
        for layer in range(self._config.num_hidden_layers):
            prefix = names.layer_prefix.format(layer=layer)
            for name, axes in names.layer_tensors(self._config).items():
                expected[prefix + name] = axes
        expected[names.final_norm] = (Space.RESIDUAL_IN,)
        expected[names.embedding] = HEAD_AXES
        if not self._config.tie_word_embeddings or names.head in found:
            expected[names.head] = HEAD_AXES
        if converted:
            del expected[names.embedding]
            expected[names.head] = HEAD_AXES
            if self._head == "client":
                del expected[names.final_norm], expected[names.head]
        source, config = ("bundle", "its manifest") if converted else ("checkpoint", "config.json")
        for name, axes in expected.items():
            if name not in found:
                raise CheckpointError(f"tensor {name} is missing from the {source}")
            shape = tuple(extent(axis, self._config) for axis in axes)
            if found[name].shape != shape:
                raise CheckpointError(
                    f"tensor {name} has shape {list(found[name].shape)}, "
                    f"{config} implies {list(shape)}"
                )
        for name in found:
            if name not in expected and not name.endswith(names.ignored):
                raise CheckpointError(
                    f"tensor {name} is unknown in a {self._config.model_type} checkpoint",
                    hint="leaving it out could change the model's answers",
                )

    def _layer_file(self, layer: int, name: str) -> PlannedFile:
        prefix = self._architecture.layer_prefix.format(layer=layer)
        spaces = self._masking.layer(layer)
        tensors = [
            self._made(each, prefix, axes, spaces)
            for each, axes in self._architecture.layer_tensors(self._config).items()
        ]
        tau = self._masking.tau(layer)
        return PlannedFile(
            name, [each for each in tensors if each], None if tau is None else (prefix + TAU, tau)
        )

    def _made(
        self, name: str, prefix: str, axes: Axes, spaces: Mapping[Space, Any]
    ) -> MaskedTensor | None:
        final_norm = self._architecture.final_norm
        norms = {each: prefix + norm for each, norm in NORMS.items()}
        norm = (norms | {self._architecture.head: final_norm}).get(name)
        stored = self._source(prefix + name)
        source = SourceTensor(
            prefix + name,
            stored,
            self._dtype(stored),
            axes,
            norm=None if norm is None else self._sources[norm],
            is_norm=name in {*NORMS.values(), final_norm},
        )
        return self._masking.tensor(source, spaces)

    def _source(self, name: str) -> StoredTensor:
        # a checkpoint may store a head although its head is tied: that copy is not read
        tied = self._config.tie_word_embeddings and self._architecture.embedding in self._sources
        if name == self._architecture.head and tied:
            name = self._architecture.embedding
        return self._sources[name]

    def _plain(self, name: str) -> GatheredTensor:
        source = self._sources[name]
        return GatheredTensor(name, source, self._dtype(source))

    def _dtype(self, source: StoredTensor) -> WeightType:
        return source.dtype if self._dtype_name == "auto" else WEIGHT_TYPES[self._dtype_name]

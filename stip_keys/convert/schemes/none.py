"""Scheme none: nothing moves. It measures what masking costs."""

from __future__ import annotations

from collections.abc import Mapping

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.families.family import Space
from stip_keys.convert.schemes.masked_tensor import GatheredTensor, SourceTensor
from stip_keys.convert.schemes.masking import Masking
from stip_keys.masks.errors import KeysError
from stip_keys.masks.keys import ClientKey, MasterKey
from stip_keys.masks.permutation import Gather


class NoMasking(Masking[Gather]):
    """Leaves every tensor as it is."""

    name = "none"

    def __init__(
        self, config: ModelConfig, key: MasterKey | None, head: str, blocks: int | None
    ) -> None:
        super().__init__(config, blocks)
        if key is not None:
            raise KeysError("scheme none takes no key: it permutes nothing")
        if head == "sealed":
            raise KeysError("scheme none has no key to seal the vocabulary with")
        self.client_key = ClientKey.identity(config.hidden_size)

    def layer(self, layer: int) -> Mapping[Space, Gather]:  # noqa: ARG002
        return {}

    def final(self) -> Mapping[Space, Gather]:
        return {}

    def tensor(self, source: SourceTensor, spaces: Mapping[Space, Gather]) -> GatheredTensor:
        return GatheredTensor.gathered(source, spaces)


MASKING = NoMasking

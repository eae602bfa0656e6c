from stip.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BundleKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUNDLE_KIND_UNSPECIFIED: _ClassVar[BundleKind]
    BUNDLE_KIND_SERVER: _ClassVar[BundleKind]
    BUNDLE_KIND_CLIENT: _ClassVar[BundleKind]

class Scheme(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCHEME_UNSPECIFIED: _ClassVar[Scheme]
    SCHEME_NONE: _ClassVar[Scheme]
    SCHEME_PERMUTATION: _ClassVar[Scheme]
    SCHEME_ROTATION: _ClassVar[Scheme]

class Head(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_UNSPECIFIED: _ClassVar[Head]
    HEAD_SERVER: _ClassVar[Head]
    HEAD_CLIENT: _ClassVar[Head]
    HEAD_SEALED: _ClassVar[Head]
BUNDLE_KIND_UNSPECIFIED: BundleKind
BUNDLE_KIND_SERVER: BundleKind
BUNDLE_KIND_CLIENT: BundleKind
SCHEME_UNSPECIFIED: Scheme
SCHEME_NONE: Scheme
SCHEME_PERMUTATION: Scheme
SCHEME_ROTATION: Scheme
HEAD_UNSPECIFIED: Head
HEAD_SERVER: Head
HEAD_CLIENT: Head
HEAD_SEALED: Head

class RopeParameters(_message.Message):
    __slots__ = ("rope_type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    ROPE_TYPE_FIELD_NUMBER: _ClassVar[int]
    ROPE_THETA_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    LOW_FREQ_FACTOR_FIELD_NUMBER: _ClassVar[int]
    HIGH_FREQ_FACTOR_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_MAX_POSITION_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    rope_type: str
    rope_theta: float
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    def __init__(self, rope_type: _Optional[str] = ..., rope_theta: _Optional[float] = ..., factor: _Optional[float] = ..., low_freq_factor: _Optional[float] = ..., high_freq_factor: _Optional[float] = ..., original_max_position_embeddings: _Optional[int] = ...) -> None: ...

class ModelConfig(_message.Message):
    __slots__ = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "attention_bias", "attention_output_bias", "mlp_bias", "tie_word_embeddings")
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATE_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_HIDDEN_LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_ATTENTION_HEADS_FIELD_NUMBER: _ClassVar[int]
    NUM_KEY_VALUE_HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DIM_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITION_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    RMS_NORM_EPS_FIELD_NUMBER: _ClassVar[int]
    ROPE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BIAS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_OUTPUT_BIAS_FIELD_NUMBER: _ClassVar[int]
    MLP_BIAS_FIELD_NUMBER: _ClassVar[int]
    TIE_WORD_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_parameters: RopeParameters
    attention_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    def __init__(self, model_type: _Optional[str] = ..., hidden_size: _Optional[int] = ..., intermediate_size: _Optional[int] = ..., num_hidden_layers: _Optional[int] = ..., num_attention_heads: _Optional[int] = ..., num_key_value_heads: _Optional[int] = ..., head_dim: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_position_embeddings: _Optional[int] = ..., rms_norm_eps: _Optional[float] = ..., rope_parameters: _Optional[_Union[RopeParameters, _Mapping]] = ..., attention_bias: _Optional[bool] = ..., attention_output_bias: _Optional[bool] = ..., mlp_bias: _Optional[bool] = ..., tie_word_embeddings: _Optional[bool] = ...) -> None: ...

class BundleFile(_message.Message):
    __slots__ = ("name", "size", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: str
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("format_version", "kind", "bundle_id", "model", "dtype", "scheme", "key_id", "residual_blocks", "eos_token_ids", "files", "head")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    kind: BundleKind
    bundle_id: str
    model: ModelConfig
    dtype: _tensor_pb2.DataType
    scheme: Scheme
    key_id: str
    residual_blocks: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    files: _containers.RepeatedCompositeFieldContainer[BundleFile]
    head: Head
    def __init__(self, format_version: _Optional[int] = ..., kind: _Optional[_Union[BundleKind, str]] = ..., bundle_id: _Optional[str] = ..., model: _Optional[_Union[ModelConfig, _Mapping]] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., scheme: _Optional[_Union[Scheme, str]] = ..., key_id: _Optional[str] = ..., residual_blocks: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., files: _Optional[_Iterable[_Union[BundleFile, _Mapping]]] = ..., head: _Optional[_Union[Head, str]] = ...) -> None: ...

from stip.v1 import manifest_pb2 as _manifest_pb2
from stip.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogitsRows(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOGITS_ROWS_UNSPECIFIED: _ClassVar[LogitsRows]
    LOGITS_ROWS_NONE: _ClassVar[LogitsRows]
    LOGITS_ROWS_LAST: _ClassVar[LogitsRows]
    LOGITS_ROWS_ALL: _ClassVar[LogitsRows]
LOGITS_ROWS_UNSPECIFIED: LogitsRows
LOGITS_ROWS_NONE: LogitsRows
LOGITS_ROWS_LAST: LogitsRows
LOGITS_ROWS_ALL: LogitsRows

class GetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("model", "scheme", "key_id", "bundle_id", "dtype", "compute_dtype", "limits", "server_version", "load", "head")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    model: _manifest_pb2.ModelConfig
    scheme: _manifest_pb2.Scheme
    key_id: str
    bundle_id: str
    dtype: _tensor_pb2.DataType
    compute_dtype: _tensor_pb2.DataType
    limits: Limits
    server_version: str
    load: Load
    head: _manifest_pb2.Head
    def __init__(self, model: _Optional[_Union[_manifest_pb2.ModelConfig, _Mapping]] = ..., scheme: _Optional[_Union[_manifest_pb2.Scheme, str]] = ..., key_id: _Optional[str] = ..., bundle_id: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., compute_dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., server_version: _Optional[str] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., head: _Optional[_Union[_manifest_pb2.Head, str]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("sessions", "waiting_opens", "waiting_steps", "kv_bytes_reserved")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WAITING_OPENS_FIELD_NUMBER: _ClassVar[int]
    WAITING_STEPS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_RESERVED_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    waiting_opens: int
    waiting_steps: int
    kv_bytes_reserved: int
    def __init__(self, sessions: _Optional[int] = ..., waiting_opens: _Optional[int] = ..., waiting_steps: _Optional[int] = ..., kv_bytes_reserved: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_sessions", "max_length", "max_step_rows", "max_step_bytes", "max_logits_bytes", "max_steps_in_flight", "session_ttl_millis", "echo_allowed", "default_length", "kv_bytes", "kv_bytes_per_token", "max_open_wait_millis")
    MAX_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_LOGITS_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    SESSION_TTL_MILLIS_FIELD_NUMBER: _ClassVar[int]
    ECHO_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MAX_OPEN_WAIT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    max_sessions: int
    max_length: int
    max_step_rows: int
    max_step_bytes: int
    max_logits_bytes: int
    max_steps_in_flight: int
    session_ttl_millis: int
    echo_allowed: bool
    default_length: int
    kv_bytes: int
    kv_bytes_per_token: int
    max_open_wait_millis: int
    def __init__(self, max_sessions: _Optional[int] = ..., max_length: _Optional[int] = ..., max_step_rows: _Optional[int] = ..., max_step_bytes: _Optional[int] = ..., max_logits_bytes: _Optional[int] = ..., max_steps_in_flight: _Optional[int] = ..., session_ttl_millis: _Optional[int] = ..., echo_allowed: _Optional[bool] = ..., default_length: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., kv_bytes_per_token: _Optional[int] = ..., max_open_wait_millis: _Optional[int] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("open", "step", "close")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    open: OpenSession
    step: Step
    close: CloseSession
    def __init__(self, open: _Optional[_Union[OpenSession, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., close: _Optional[_Union[CloseSession, _Mapping]] = ...) -> None: ...

class OpenSession(_message.Message):
    __slots__ = ("key_id", "bundle_id", "max_length", "resume_session_id", "fork", "wait_millis", "head")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    RESUME_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FORK_FIELD_NUMBER: _ClassVar[int]
    WAIT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    bundle_id: str
    max_length: int
    resume_session_id: bytes
    fork: ForkPoint
    wait_millis: int
    head: _manifest_pb2.Head
    def __init__(self, key_id: _Optional[str] = ..., bundle_id: _Optional[str] = ..., max_length: _Optional[int] = ..., resume_session_id: _Optional[bytes] = ..., fork: _Optional[_Union[ForkPoint, _Mapping]] = ..., wait_millis: _Optional[int] = ..., head: _Optional[_Union[_manifest_pb2.Head, str]] = ...) -> None: ...

class ForkPoint(_message.Message):
    __slots__ = ("session_id", "length")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    length: int
    def __init__(self, session_id: _Optional[bytes] = ..., length: _Optional[int] = ...) -> None: ...

class CloseSession(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Step(_message.Message):
    __slots__ = ("position", "hidden_states", "logits", "echo")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    position: int
    hidden_states: _tensor_pb2.Tensor
    logits: LogitsRequest
    echo: bool
    def __init__(self, position: _Optional[int] = ..., hidden_states: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., logits: _Optional[_Union[LogitsRequest, _Mapping]] = ..., echo: _Optional[bool] = ...) -> None: ...

class LogitsRequest(_message.Message):
    __slots__ = ("rows", "dtype", "top_k")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    rows: LogitsRows
    dtype: _tensor_pb2.DataType
    top_k: int
    def __init__(self, rows: _Optional[_Union[LogitsRows, str]] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., top_k: _Optional[int] = ...) -> None: ...

class InferResponse(_message.Message):
    __slots__ = ("opened", "result")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    opened: SessionOpened
    result: StepResult
    def __init__(self, opened: _Optional[_Union[SessionOpened, _Mapping]] = ..., result: _Optional[_Union[StepResult, _Mapping]] = ...) -> None: ...

class SessionOpened(_message.Message):
    __slots__ = ("session_id", "length", "max_length", "limits")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    length: int
    max_length: int
    limits: Limits
    def __init__(self, session_id: _Optional[bytes] = ..., length: _Optional[int] = ..., max_length: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("length", "logits", "timings", "received", "hidden_states")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    length: int
    logits: Logits
    timings: Timings
    received: _containers.RepeatedScalarFieldContainer[float]
    hidden_states: _tensor_pb2.Tensor
    def __init__(self, length: _Optional[int] = ..., logits: _Optional[_Union[Logits, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., received: _Optional[_Iterable[float]] = ..., hidden_states: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Logits(_message.Message):
    __slots__ = ("values", "indices", "log_sum_exp")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    LOG_SUM_EXP_FIELD_NUMBER: _ClassVar[int]
    values: _tensor_pb2.Tensor
    indices: _tensor_pb2.Tensor
    log_sum_exp: _tensor_pb2.Tensor
    def __init__(self, values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., indices: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., log_sum_exp: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_nanos", "compute_nanos")
    QUEUE_NANOS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NANOS_FIELD_NUMBER: _ClassVar[int]
    queue_nanos: int
    compute_nanos: int
    def __init__(self, queue_nanos: _Optional[int] = ..., compute_nanos: _Optional[int] = ...) -> None: ...

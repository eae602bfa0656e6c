"""Scenarios about what the client itself does: its work on a token, and its import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.speed.figures import Figure, Series, Target
from benchmarks.speed.models import QWEN_0_5B
from benchmarks.speed.workspace import Workspace
from stip.v1.inference_pb2 import InferResponse, Limits, Logits, SessionOpened, StepResult
from stip.v1.tensor_pb2 import DataType, Tensor
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.sampling.drafting import Draft
from stip_client.sampling.parameters import SamplingParameters
from stip_client.session.forward_call import LogitsForm
from stip_client.session.generation import Generation
from stip_client.session.generation_options import GenerationParameters
from stip_client.session.session_core import SessionCore
from stip_client.transport.wire_tensors import DTYPES, WIRE_TYPES

TOKENS = 200
WARM_UPS = 20
# What each asks for: the largest logits, or whole rows since any token may become likelier.
WAYS = (
    ("top-k replies, greedy", {}, 1.0),
    ("top-k replies, temperature 0.8 and top-p 0.95", {"temperature": 0.8, "top_p": 0.95}, 1.0),
    (
        "full rows of 151,936, temperature 0.8 and penalty 1.1",
        {"temperature": 0.8, "repetition_penalty": 1.1},
        6.0,
    ),
    ("full rows of 151,936, greedy with penalty 1.1", {"repetition_penalty": 1.1}, 6.0),
)


def client_work(workspace: Workspace, _: int) -> Iterator[Figure]:
    """All that the client does for a token but I/O: parsing the answer, choosing, guessing,
    embedding, masking and writing the next request."""
    bundles = workspace.bundles(workspace.checkpoint("0.5b", QWEN_0_5B))
    bundle = ClientBundle(bundles / "client")
    for name, sampling, bound in WAYS:
        taken = _work(bundle, SamplingParameters(seed=1, **sampling))  # type: ignore[arg-type]
        series = Series(f"{TOKENS} tokens", "ms", taken)
        yield Figure(
            scenario="client-work",
            name=f"client work a token, {name}",
            value=series.median,
            unit="ms",
            target=Target("<=", bound),
            ours=series,
            note=f"the 95th percentile is {np.percentile(taken, 95):.2g} ms",
        )


def import_client(_: Workspace, repeats: int) -> Iterator[Figure]:
    """Importing both clients in a fresh interpreter, less what the interpreter takes to start."""
    taken = [
        _python("from stip_client import AsyncClient, Client") - _python("pass")
        for _ in range(1 + 2 * repeats)
    ][1:]
    series = Series("fresh interpreters", "s", taken)
    yield Figure(
        scenario="import",
        name="import stip_client",
        value=series.median,
        unit="s",
        target=Target("<=", 0.5),
        ours=series,
    )


def _python(code: str) -> float:
    started = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    return perf_counter() - started


def _work(bundle: ClientBundle, sampling: SamplingParameters) -> list[float]:
    """Milliseconds for each token, against answers that are made beforehand."""
    draw, vocab_size = np.random.default_rng(0), QWEN_0_5B.vocab_size
    # peaked as a language model's are
    rows = draw.gumbel(0, 1.7, (8, vocab_size)).astype(np.float32)
    core = SessionCore(bundle)
    limits = Limits(max_step_rows=512, max_step_bytes=1 << 20, max_logits_bytes=1 << 22)
    opened = SessionOpened(session_id=bytes(16), max_length=4096, limits=limits)
    core.accept_opened(InferResponse(opened=opened))
    prompt = draw.integers(0, vocab_size, 512).tolist()
    # whole rows that are asked for on a guess weigh as much again
    draft: Draft = "off" if sampling.changes_logits else "auto"
    parameters = GenerationParameters(10**6, sampling, ignore_eos=True, draft=draft)
    generation = Generation(bundle, prompt, parameters)
    taken: list[float] = []
    began, outside, generated = perf_counter(), 0.0, 0
    while generated < WARM_UPS + TOKENS:
        step = generation.next_step(core.position, 4096)
        if step is None:
            raise RuntimeError("the reply has ended")
        forward = core.forward(step.token_ids, step.form)
        for request in forward.requests():
            request.SerializeToString()
            pause = perf_counter()
            end = core.position + len(step.token_ids)
            answer = _answer(rows, end, step.drafted + 1, step.form)
            outside += perf_counter() - pause
            forward.add_response(InferResponse.FromString(answer))
        start = core.position
        pieces, kept = generation.add_result(core.finish(forward))
        core.rollback(start + kept)
        if pieces:
            now = perf_counter()
            taken += [(now - began - outside) / len(pieces) * 1e3] * len(pieces)
            generated += len(pieces)
            began, outside = now, 0.0
    return taken[WARM_UPS:]


def _answer(rows: np.ndarray, end: int, count: int, wanted: LogitsForm) -> bytes:
    """A server's answer to a step that asks for its last `count` rows, and ends at a position."""
    values = rows[[(end - count + each) % len(rows) for each in range(count)]]
    logits = Logits()
    if wanted.top_k:
        indices = np.argsort(-values, axis=-1)[:, : wanted.top_k].astype("<i4")
        sums = np.log(np.exp(values.astype(np.float64)).sum(-1)).astype("<f4")
        logits.indices.CopyFrom(_tensor(indices, DataType.DATA_TYPE_INT32))
        logits.log_sum_exp.CopyFrom(_tensor(sums, DataType.DATA_TYPE_FLOAT32))
        values = np.take_along_axis(values, indices, -1)
    dtype = WIRE_TYPES[wanted.dtype]
    logits.values.CopyFrom(_tensor(values.astype(DTYPES[dtype]), dtype))
    # the rows of guesses are the last ones of a step
    length = end
    return InferResponse(result=StepResult(length=length, logits=logits)).SerializeToString()


def _tensor(values: np.ndarray, dtype: DataType) -> Tensor:
    return Tensor(dtype=dtype, shape=values.shape, data=values.tobytes())

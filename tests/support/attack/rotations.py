"""Rotated weights, by dense matrices: what the rotation scheme says, and nothing of how it is done.

An attack on these is also a check of how a rotation is described.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import PublicModel


def _orthogonal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def rotate_model(
    public: PublicModel, rng: np.random.Generator, key: dict[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """The server's weights in float16, and the rotation; all secrets go into `key`, by label."""
    config, plain = public.config, public.tensors
    d = config.head_dim
    group = config.num_attention_heads // config.num_key_value_heads
    q = _orthogonal(rng, config.hidden_size)
    key["rotation"] = q
    out: dict[str, NDArray[Any]] = {}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        read = {n.removeprefix(prefix): t for n, t in plain.items() if n.startswith(prefix)}
        heads = rng.permutation(config.num_key_value_heads)
        members = [rng.permutation(group) for _ in heads]
        key[f"layer/{layer}/heads"] = heads
        turn, value, order_q = [], [], []
        for slot, kv in enumerate(heads):
            key[f"layer/{layer}/group/{kv}"] = members[slot]
            angle = rng.uniform(0, 2 * np.pi, d // 2)
            c, s = np.diag(np.cos(angle)), np.diag(np.sin(angle))
            turn.append(np.block([[c, -s], [s, c]]))
            value.append(_orthogonal(rng, d))
            order_q += [kv * group + member for member in members[slot]]

        def by_head(
            order: Sequence[int] | NDArray[np.int64], maps: Sequence[NDArray[Any]], rows: Any
        ) -> NDArray[Any]:
            split = rows.reshape(-1, d, *rows.shape[1:])
            turned = [
                np.tensordot(maps[slot * len(maps) // len(order)], split[head], 1)
                for slot, head in enumerate(order)
            ]
            return np.concatenate(turned)

        m = rng.permutation(config.intermediate_size)
        signs = rng.choice([-1.0, 1.0], config.intermediate_size)
        key[f"layer/{layer}/mlp"] = m
        before, after = read["input_layernorm.weight"], read["post_attention_layernorm.weight"]
        rows = {
            "self_attn.q_proj": lambda x: by_head(order_q, turn, x),  # noqa: B023
            "self_attn.k_proj": lambda x: by_head(heads, turn, x),  # noqa: B023
            "self_attn.v_proj": lambda x: by_head(heads, value, x),  # noqa: B023
            "mlp.gate_proj": lambda x: x[m],  # noqa: B023
            "mlp.up_proj": lambda x: (x[m].T * signs).T,  # noqa: B023
        }
        for name, change in rows.items():
            norm = before if name.startswith("self") else after
            out[f"{prefix}{name}.weight"] = change(read[f"{name}.weight"] * norm) @ q
            if f"{name}.bias" in read:
                out[f"{prefix}{name}.bias"] = change(read[f"{name}.bias"])
        o_columns = by_head(order_q, value, read["self_attn.o_proj.weight"].T)
        out[f"{prefix}self_attn.o_proj.weight"] = q.T @ o_columns.T
        out[f"{prefix}mlp.down_proj.weight"] = q.T @ (read["mlp.down_proj.weight"][:, m] * signs)
        for name in ("self_attn.o_proj.bias", "mlp.down_proj.bias"):
            if name in read:
                out[prefix + name] = read[name] @ q
    head = public.decoder.head()
    out["lm_head.weight"] = (head * plain["model.norm.weight"]) @ q
    rounded = {name: t.astype(np.float16).astype(np.float32) for name, t in out.items()}
    return rounded, q.astype(np.float32)

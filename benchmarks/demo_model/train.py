"""Train the demo model that comes with the client, and write it as a Hugging Face checkpoint.

    python benchmarks/demo_model/train.py --out DIR [--steps N] [--seed N]

The text is made by `corpus.py`; nothing is downloaded. Training needs `torch`, `transformers`,
`tokenizers` and `safetensors`. PyTorch with transformers' `Qwen2ForCausalLM` is used because it is
faster on a CPU: on two Xeon cores, 32 sequences of 96 tokens in float32, it trained on 11,500
tokens a second, and MLX 0.32.4 (with OpenBLAS) with mlx-lm's `qwen2.Model` on 3,900.
`evaluate.py` checks the written checkpoint with mlx-lm.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from corpus import Corpus
from dialogue import END, IM_END, encode, save_tokenizer, train_tokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy, pad
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 1536
CONTEXT = 1024
BATCH_TOKENS = 4096
POOL = 1024  # conversations that are sorted by length together, to waste little on padding
PEAK_RATE = 2.5e-3
WARM_UP = 150
DECAY = 0.05
SHAPE = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "silu",
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
    "attention_dropout": 0.0, "tie_word_embeddings": True, "use_sliding_window": False,
}  # fmt: skip
ROPE_THETA = 10000.0

Batch = tuple[torch.Tensor, torch.Tensor]


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def collate(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """Rows padded on the right to one length; padding is masked out of the loss."""
    length = max(len(ids) for ids, _ in rows)
    ids, mask = (
        torch.stack([pad(torch.tensor(row[part]), (0, length - len(row[part]))) for row in rows])
        for part in (0, 1)
    )
    return ids, mask.bool()


def batches(corpus: Corpus, tokenizer: Tokenizer, rng: random.Random) -> Iterator[Batch]:
    """Endless batches of fresh conversations."""
    while True:
        pool = sorted(
            (encode(tokenizer, corpus.conversation()) for _ in range(POOL)),
            key=lambda row: len(row[0]),
        )
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in pool:
            if (len(groups[-1]) + 1) * len(row[0]) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from (collate(group) for group in groups)


def logits_at_answers(model: Qwen2ForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and right tokens at the places where the assistant writes."""
    ids, mask = batch
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    return model.lm_head(hidden[mask[:, 1:]]), ids[:, 1:][mask[:, 1:]]


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP)))


def fit(model: Qwen2ForCausalLM, stream: Iterator[Batch], steps: int) -> None:
    """Run the optimiser for the given number of steps."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    model.train()
    begin, seen, total = time.monotonic(), 0, 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps)
        batch = next(stream)
        logits, targets = logits_at_answers(model, batch)
        loss = cross_entropy(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += batch[0].numel()
        total += loss.item()
        if (step + 1) % 50 == 0:
            spent = time.monotonic() - begin
            log(
                f"step {step + 1}/{steps} loss {total / 50:.4f} "
                f"{seen / spent:.0f} tokens/s {spent / 60:.1f} min"
            )
            total = 0.0


@torch.inference_mode()
def accuracy(model: Qwen2ForCausalLM, tokenizer: Tokenizer, conversations: list) -> float:
    """Share of conversations whose last answer greedy decoding gives word for word.

    Greedy decoding gives the answer exactly when every token of it is the most likely one after
    the tokens before it, so one pass over each conversation is enough.
    """
    model.eval()
    right = 0
    for conversation in conversations:
        ids, mask = encode(tokenizer, conversation)
        before = len(encode(tokenizer, conversation[:-1])[0])
        mask[:before] = [0] * before
        logits, targets = logits_at_answers(model, collate([(ids, mask)]))
        right += bool((logits.argmax(-1) == targets).all())
    return right / len(conversations)


def save_model(model: Qwen2ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors in float16."""
    end, stop = tokenizer.token_to_id(END), tokenizer.token_to_id(IM_END)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **SHAPE,
        "bos_token_id": end,
        "eos_token_id": stop,
        "pad_token_id": end,
        "max_window_layers": SHAPE["num_hidden_layers"],
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "sliding_window": None,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    generation = {
        "bos_token_id": end,
        "do_sample": False,
        "eos_token_id": [stop, end],
        "pad_token_id": end,
    }
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    weights = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable for its owner only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    sample = Corpus(args.seed + 1)
    texts = [message["content"] for _ in range(30000) for message in sample.conversation()]
    tokenizer = train_tokenizer([*texts, "system user assistant\n"], VOCABULARY)
    config = Qwen2Config(
        **SHAPE,
        vocab_size=VOCABULARY,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )
    model = Qwen2ForCausalLM(config)
    log(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(sample.items):,} items, "
        f"{tokenizer.get_vocab_size()} tokens"
    )

    stream = batches(Corpus(args.seed), tokenizer, random.Random(args.seed))
    fit(model, stream, args.steps)
    for name, conversations in Corpus(args.seed + 2).test_sets(2000).items():
        log(f"{name}: {accuracy(model, tokenizer, conversations):.2%} of {len(conversations)}")

    args.out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, args.out, CONTEXT)
    save_model(model, tokenizer, args.out)
    log(f"wrote {args.out}")


if __name__ == "__main__":
    main()

"""The random checkpoints that the comparisons with the oracle run on."""

from __future__ import annotations

from tests.support.models.random_checkpoint import LLAMA3_SCALING, RandomCheckpoint

MODELS = {
    "qwen2-tied-odd-heads": RandomCheckpoint(
        hidden_size=90,
        intermediate_size=133,
        num_hidden_layers=3,
        num_attention_heads=9,
        num_key_value_heads=3,
        seed=1,
    ),
    "qwen2-untied-bfloat16-shards": RandomCheckpoint(
        hidden_size=60,
        intermediate_size=77,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        dtype="bfloat16",
        shards=3,
        seed=2,
    ),
    "llama-untied-llama3-scaling-head-dim": RandomCheckpoint(
        model_type="llama",
        hidden_size=70,
        intermediate_size=93,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=18,
        tie_word_embeddings=False,
        rope={"rope_scaling": LLAMA3_SCALING},
        seed=3,
    ),
    "llama-all-biases-linear-scaling": RandomCheckpoint(
        model_type="llama",
        hidden_size=56,
        intermediate_size=41,
        num_hidden_layers=2,
        num_attention_heads=7,
        num_key_value_heads=7,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        rope={"rope_scaling": {"type": "linear", "factor": 2.5}},
        dtype="float16",
        seed=4,
    ),
}

"""Makes the golden vectors of this folder with torch and transformers.

    python -m tests.interop.huggingface.make_golden [CASE ...]

writes tests/interop/huggingface/golden, all cases or those that are named.
Each is a configuration as transformers saves it, the names and shapes of its tensors, and what
transformers computes: logits of 256 tokens and of a batch padded on the left, and the greedy
continuations of both. The weights are not stored but drawn anew by `write_checkpoint`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from smf_jax.models.generate import left_pad
from tests.models.make_golden import DISTINCT, Reference, reference

GOLDEN = Path(__file__).parent / "golden"
CLOSE = 5e-4  # of the best two logits on the way, a distance that is no close call
EVERY = 32  # places of the prompt from one that is kept to the next
LENGTHS, STEPS = (61, 40, 7), 64  # of the prompts of the batch; tokens of every continuation


class Case(NamedTuple):
    """A family in one of its variants."""

    config: str  # the class of transformers
    changes: dict[str, Any]  # of its configuration
    tolerance: float = 1e-5  # of the logits


VOCABULARY = 64
WINDOW = 24  # tokens, fewer than the shorter of the prompts that count
CASES = {
    "smollm3": Case("SmolLM3Config", {"num_hidden_layers": 4}),
    "smollm3-listed": Case(
        "SmolLM3Config",
        {
            "num_hidden_layers": 3,
            "no_rope_layers": [0, 1, 0],
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "mistral": Case("MistralConfig", {"sliding_window": WINDOW, "head_dim": 8}),
    "mistral-full": Case("MistralConfig", {"sliding_window": None, "num_key_value_heads": 1}),
    "olmo2": Case("Olmo2Config", {}),
    "olmo2-biased": Case(
        "Olmo2Config",
        {
            "attention_bias": True,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        },
    ),
    "gemma3": Case(
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "sliding_window": WINDOW,
            "head_dim": 8,
            "query_pre_attn_scalar": 12,
        },
        tolerance=1e-4,
    ),
}


class Expected(NamedTuple):
    """What transformers computes of a case."""

    whole: Reference
    tokens: np.ndarray  # (3, 64), padded on the left
    valid: np.ndarray  # (3, 64)
    logits: np.ndarray  # (3, 64, vocabulary)
    continuations: np.ndarray  # (3, 64)


def write_checkpoint(directory: Path, told: dict[str, Any], shapes: dict[str, Any], seed: int):
    """A checkpoint of random weights: no bias is zero, no norm is neutral.

    Embeddings are small beside what the blocks add, or a tied model would repeat its last token.
    """
    rng, tensors = np.random.default_rng(seed), {}
    gemma = told["model_type"].startswith("gemma")
    neutral = 0.0 if gemma else 1.0
    # What a norm follows cannot weigh more by its own weights: attention is made to choose, and
    # embeddings fit what is added to them. Those of Gemma are tied, and grow by √width.
    normed = any("post_feedforward" in name for name in shapes)
    for name in sorted(shapes):
        shape = shapes[name]
        start = neutral if "norm" in name else 0.0
        start += (1.5 if gemma else 0.3) if normed and "self_attn" in name and "norm" in name else 0
        std = 0.3 if len(shape) == 1 else shape[-1] ** -0.5
        std *= 3 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
        std *= (0.4 if gemma else 2) if normed and "embed_tokens" in name else 1
        tensors[name] = (start + std * rng.standard_normal(shape)).astype(np.float32)
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(told, indent=2))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def expect(name: str, directory: Path, seed: int) -> tuple[Expected, dict[str, Any], Any]:
    """Writes the checkpoint of a case; its `Expected`, its configuration and its shapes."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "attn_implementation": "eager",
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = getattr(transformers, CASES[name].config)(**shape | CASES[name].changes)
    shutil.rmtree(directory, ignore_errors=True)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    told = json.loads((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_checkpoint(directory, told, shapes, seed)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, VOCABULARY, length).tolist() for length in LENGTHS]
    tokens, valid = left_pad(prompts, pad=0)
    batch = {
        "input_ids": torch.tensor(tokens, dtype=torch.long),
        "attention_mask": torch.tensor(valid, dtype=torch.long),
    }
    places = torch.clamp(batch["attention_mask"].cumsum(1) - 1, min=0)
    with torch.no_grad():
        logits = model(**batch, position_ids=places).logits.numpy()
        longer = model.generate(
            **batch,
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = torch.stack(longer.logits).topk(2).values
    whole = reference(model, 0)
    whole = whole._replace(gap=min(whole.gap, float((best[..., 0] - best[..., 1]).min())))
    continuations = longer.sequences[:, tokens.shape[1] :].numpy()
    return Expected(whole, tokens, valid, logits, continuations), told, shapes


def first_that_serves(name: str, directory: Path) -> Any:
    """`expect` of the first seed by which no continuation is a mere repetition or a close call."""
    for seed in range(100):
        expected, told, shapes = expect(name, directory, seed)
        whole = expected.whole
        varied = all(len(np.unique(row)) >= DISTINCT for row in expected.continuations)
        exact = whole.rounding <= 0.5 * CASES[name].tolerance
        varied = varied and len(np.unique(whole.continuation)) >= DISTINCT
        if varied and exact and whole.gap >= CLOSE:
            return expected, told, shapes, seed
    raise ValueError(f"{name}: no continuation of 100 models serves")


def main() -> None:
    import transformers  # pyright: ignore[reportMissingImports]

    transformers.logging.disable_progress_bar()
    asked = sys.argv[1:] or CASES
    GOLDEN.mkdir(exist_ok=True)
    for name in asked:
        with tempfile.TemporaryDirectory() as directory:
            expected, told, shapes, seed = first_that_serves(name, Path(directory) / name)
        about = {"config": told, "shapes": shapes, "seed": seed}
        (GOLDEN / f"{name}.json").write_text(json.dumps(about) + "\n")
        np.savez_compressed(
            GOLDEN / f"{name}.npz",
            prompt=expected.whole.prompt.astype(np.int32),
            logits=expected.whole.logits[:, ::EVERY],
            continuation=expected.whole.continuation.astype(np.int32),
            tokens=expected.tokens,
            valid=expected.valid,
            last_logits=expected.logits[:, -1],
            continuations=expected.continuations.astype(np.int32),
        )
        whole = expected.whole
        print(f"{name}: seed {seed}, greedy gap {whole.gap:.4f}, rounding {whole.rounding:.1e}")


if __name__ == "__main__":
    main()

"""Makes the golden checkpoints of this folder with torch and transformers.

    python -m tests.models.make_golden        writes tests/models/golden

Each holds a tiny random model as transformers saves it, one prompt of 256 tokens, the logits at
every eighth place of it, and a greedy continuation. Weights are stored in bfloat16 to be small;
both sides compute in float32.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
PROMPT, CONTINUATION, EVERY = 256, 64, 8
DISTINCT = 6  # tokens of a continuation that serves, at least
# Of its own logits, by which a reference may be off in float32: it is to be met within 1e-5.
ROUNDING = 6e-6
NAMES = ("qwen2", "qwen3", "llama", "llama3", "qwen2-untied", "qwen3-tied", "llama3-tied")
# Those that are kept in the spelling of transformers 4, and in several files with an index.
OLD_SPELLING = ("qwen2-untied", "llama3-tied")
SHARDED = ("qwen2-untied", "qwen3-tied")


class Reference(NamedTuple):
    """What transformers computes.

    Attributes:
      prompt: ``(1, 256)``.
      logits: ``(1, 256, vocabulary)``, float32.
      continuation: ``(1, 64)``, greedy.
      gap: the smallest distance between the best and the second-best logit on the way.
      rounding: the largest distance of the logits from those in float64 (norms in float32).
    """

    prompt: np.ndarray
    logits: np.ndarray
    continuation: np.ndarray
    gap: float
    rounding: float

    @property
    def serves(self) -> bool:
        """Whether the continuation is no mere repetition, no close call, and the logits exact."""
        varied = len(np.unique(self.continuation)) >= DISTINCT
        return varied and self.gap >= 1e-3 and self.rounding <= ROUNDING


def random_model(name: str, width: int = 24, vocabulary: int = 64, seed: int = 0) -> Any:
    """A random model of ``NAMES`` in which no bias is zero and no norm is one.

    Embeddings are small beside what the blocks add, or a tied model would repeat its last token.
    """
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    shape = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width - 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "attn_implementation": "eager",
    }
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = {
        "qwen2": lambda: transformers.Qwen2Config(**shape, tie_word_embeddings=True),
        "qwen3": lambda: transformers.Qwen3Config(
            **shape, head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
        ),
        "llama": lambda: transformers.LlamaConfig(
            **shape, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
        ),
        "llama3": lambda: transformers.LlamaConfig(**shape, head_dim=12, rope_parameters=llama3),
        "qwen2-untied": lambda: transformers.Qwen2Config(
            **shape | {"num_key_value_heads": 1},
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        ),
        "qwen3-tied": lambda: transformers.Qwen3Config(
            **shape, head_dim=10, tie_word_embeddings=True, attention_bias=True
        ),
        "llama3-tied": lambda: transformers.LlamaConfig(
            **shape, tie_word_embeddings=True, rope_parameters=llama3, rms_norm_eps=1e-5
        ),
    }[name]()
    generator = torch.Generator().manual_seed(100 * NAMES.index(name) + seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for path, leaf in model.named_parameters():
            start = 1.0 if "norm" in path else 0.0
            std = 0.3 if leaf.ndim == 1 else leaf.shape[-1] ** -0.5
            std *= 3 if "o_proj.weight" in path or "down_proj.weight" in path else 1
            leaf.copy_(start + std * torch.randn(leaf.shape, generator=generator))
    return model


def save(name: str, model: Any, directory: Path, shard_size: str = "5GB") -> None:
    """Saves a model of ``NAMES`` as its files are spelled and split."""
    model.save_pretrained(directory, max_shard_size=shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if name in OLD_SPELLING:
        spell_old(directory)


def spell_old(directory: Path) -> None:
    """Rewrites a configuration as transformers 4 spelled it."""
    file = directory / "config.json"
    values = json.loads(file.read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    values["torch_dtype"] = values.pop("dtype")
    values["transformers_version"] = "4.46.0"
    file.write_text(json.dumps(values, indent=2) + "\n")


def reference(model: Any, seed: int) -> Reference:
    """Logits and greedy continuation of a random prompt, without a cache."""
    import torch  # pyright: ignore[reportMissingImports]

    vocabulary = model.config.vocab_size
    prompt = np.random.default_rng(seed).integers(0, vocabulary, (1, PROMPT))
    tokens, gap = torch.tensor(prompt), np.inf
    with torch.no_grad():
        logits = model(tokens).logits
        rounding = float((copy.deepcopy(model).double()(tokens).logits - logits).abs().max())
        for _ in range(CONTINUATION):
            best = torch.topk(model(tokens).logits[0, -1], 2)
            gap = min(gap, float(best.values[0] - best.values[1]))
            tokens = torch.cat([tokens, best.indices[None, :1]], dim=1)
    return Reference(prompt, logits.numpy(), tokens[:, PROMPT:].numpy(), gap, rounding)


def saved_model(
    name: str, directory: Path, dtype: Any, shard_size: str = "5GB", **shape: int
) -> tuple[Any, Reference]:
    """The first random model of ``NAMES`` whose continuation serves, saved and read back.

    Read back, not cast back: a cast would leave the rotary frequencies rounded to bfloat16.
    """
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    for seed in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        save(name, random_model(name, seed=seed, **shape).to(dtype), directory, shard_size)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        expected = reference(model, seed=0)
        if expected.serves:
            return model, expected
    raise ValueError(f"{name}: no continuation of 100 models serves")


def main() -> None:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    transformers.logging.disable_progress_bar()
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name in NAMES:
        shard_size = "12KB" if name in SHARDED else "5GB"
        _, expected = saved_model(name, GOLDEN / name, torch.bfloat16, shard_size)
        np.savez_compressed(
            GOLDEN / name / "expected.npz",
            prompt=expected.prompt.astype(np.int32),
            logits=expected.logits[:, ::EVERY],
            continuation=expected.continuation.astype(np.int32),
        )
        distinct = len(np.unique(expected.continuation))
        print(
            f"{name}: {distinct} distinct tokens, smallest greedy gap {expected.gap:.4f}, "
            f"rounding {expected.rounding:.1e}"
        )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (GOLDEN / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What the commands can be told: one frozen dataclass of flags for each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from smf_jax.continual.flags import flag
from smf_jax.continual.grid import METHODS, OPTIMIZERS
from smf_jax.data.files import RECORD_FILES
from smf_jax.data.world.world import WorldConfig
from smf_jax.errors import blame_flag
from smf_jax.evaluation.probes.registry import KINDS
from smf_jax.memory.layer import MemoryConfig
from smf_jax.models.config import MemoryPlacement
from smf_jax.sparse.selection import GRANULARITIES, RULES

_WORLD, _MODEL, _MEMORY = "The built-in world", "The model", "The memory"
_TRAINING, _SPARSE, _OUT = "Training", "Method smf", "Output"


@dataclass(frozen=True)
class PretrainFlags:
    """Flags of ``experiments.pretrain``; also what a built-in base is, hence its cache key."""

    preset: str = flag("Preset", "", "the settings of a paper, a name in experiments/configs")
    scale: str = flag("Preset", "full", "full: the paper's sizes; tiny: the same path in a minute")
    out: str = flag(_OUT, "", "directory of the base to make; must not exist")
    overwrite: bool = flag(_OUT, False, "replace what stands at --out")
    world_seed: int = flag(_WORLD, 0, "seed of entities, facts and the stream")
    known_facts: int = flag(_WORLD, 1000, "facts that the base is taught")
    relations: int = flag(_WORLD, WorldConfig.relations, "relations in use")
    texts: str = flag(
        _WORLD, "", "further text to learn from: a file, a directory or tfds:NAME:SPLIT"
    )
    text_tokens: int = flag(_WORLD, 1_000_000, "tokens of --texts that are read")
    vocabulary: int = flag(_MODEL, 2048, "tokens of the byte-level BPE that is trained")
    width: int = flag(_MODEL, 128, "model width d")
    layers: int = flag(_MODEL, 4, "blocks")
    heads: int = flag(_MODEL, 4, "attention heads")
    hidden_width: int = flag(_MODEL, 256, "width of the feed-forwards")
    max_positions: int = flag(_MODEL, 512, "longest sequence")
    memory_layers: str = flag(
        _MEMORY, "1", "blocks whose feed-forward is a memory, from 0, as in 1,2; empty for none"
    )
    shared_pool: bool = flag(_MEMORY, False, "one table for all memory layers")
    keys_per_half: int = flag(_MEMORY, 128, "n; the table has n² slots")
    memory_heads: int = flag(_MEMORY, 4, "heads h")
    reads: int = flag(_MEMORY, 8, "reads per head k")
    key_width: int = flag(_MEMORY, 64, "key width kd, both halves together")
    value_width: int = flag(_MEMORY, 0, "value width v; 0 for the model width")
    gate: str = flag(_MEMORY, "silu", "silu, scalar or none")
    query_norm: str = flag(
        _MEMORY, "none", "none; layer or rms, of query halves; or batch, over tokens"
    )
    qk_norm: bool = flag(_MEMORY, True, "RMS norm on query halves and keys")
    score: str = flag(_MEMORY, "softmax", "softmax or relu")
    output_norm: str = flag(_MEMORY, "none", "none, or layer: layer norm of what is read")
    experts: bool = flag(_MEMORY, False, "each slot is an expert of one hidden unit (PEER)")
    key_scale: str = flag(_MEMORY, "memory+", "initial keys: memory+ in ±1/√kd, pkm in ±√(2/kd)")
    query_bias: bool = flag(_MEMORY, True, "whether the query projection has a bias")
    whiten_queries: bool = flag(
        _MEMORY, True, "at the end, make the queries white on the data: the table is used evenly"
    )
    steps: int = flag(_TRAINING, 1200, "steps")
    batch_size: int = flag(_TRAINING, 64, "paraphrases of facts in a batch")
    text_batch_size: int = flag(_TRAINING, 16, "windows of text in a batch, beside the facts")
    learning_rate: float = flag(_TRAINING, 3e-3, "peak of AdamW's rate; warm-up, then cosine to 0")
    warmup_steps: int = flag(_TRAINING, 50, "steps of warm-up")
    weight_decay: float = flag(_TRAINING, 0.01, "decoupled decay")
    prompt_loss_weight: float = flag(_TRAINING, 0.1, "weight of the words that are not the answer")
    seed: int = flag(_TRAINING, 0, "seed of initial values and of the order of batches")

    def world(self, tasks: int = 0, facts_per_task: int = 20, changed: float = 0.2) -> WorldConfig:
        """The built-in world with a stream of so many tasks; the base's share is the same."""
        with blame_flag("--"):
            return WorldConfig(
                seed=self.world_seed,
                known_facts=self.known_facts,
                relations=self.relations,
                tasks=tasks,
                facts_per_task=facts_per_task,
                changed_share=changed,
            )

    def recipe(self) -> dict[str, Any]:
        """Everything that decides what the base is; the rest only says where it goes."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in ("out", "overwrite", "preset", "scale")
        }


@dataclass(frozen=True)
class MemoryFlags:
    """Flags that several commands share: the memory that a retrofit puts in."""

    retrofit: str = flag(
        "Retrofit",
        "none",
        "put a fresh memory into a base that has none: add (beside the feed-forward, scaled by α), "
        "replace (in its place) or none",
    )
    layers: str = flag(
        "Retrofit",
        "",
        "blocks to retrofit, from 0, as in 6,12,18; empty: those at a quarter, a half and three "
        "quarters of the depth",
    )
    shared_pool: bool = flag("Retrofit", False, "one table for all of them")
    alpha: float = flag("Retrofit", 0.01, "initial α of --retrofit=add")
    keys_per_half: int = flag("Retrofit", 128, "n; the table has n² slots")
    memory_heads: int = flag("Retrofit", 4, "heads h")
    reads: int = flag("Retrofit", 8, "reads per head k")
    key_width: int = flag("Retrofit", 64, "key width kd, both halves together")
    value_width: int = flag("Retrofit", 0, "value width v; 0 for the model width")
    gate: str = flag("Retrofit", "silu", "silu, scalar or none")
    query_norm: str = flag(
        "Retrofit", "none", "none; layer or rms, of query halves; or batch, over tokens"
    )
    qk_norm: bool = flag("Retrofit", True, "RMS norm on query halves and keys")
    score: str = flag("Retrofit", "softmax", "softmax or relu")
    output_norm: str = flag("Retrofit", "none", "none, or layer: layer norm of what is read")
    experts: bool = flag("Retrofit", False, "each slot is an expert of one hidden unit (PEER)")
    key_scale: str = flag("Retrofit", "memory+", "initial keys: memory+ in ±1/√kd, pkm in ±√(2/kd)")
    query_bias: bool = flag("Retrofit", True, "whether the query projection has a bias")
    heal_steps: int = flag(
        "Retrofit",
        200,
        "steps that train only the new memory on text (a sweep's: its background); 0 for none",
    )
    heal_learning_rate: float = flag("Retrofit", 5e-3, "peak of AdamW's rate while healing")
    heal_batch_size: int = flag("Retrofit", 16, "windows of text in a healing batch")
    heal_loss: str = flag(
        "Retrofit",
        "text",
        "text, or distill: what the feed-forward that --retrofit=replace removed computed",
    )
    heal_routing: bool = flag(
        "Retrofit",
        False,
        "healing also trains queries and keys, as published; few slots then take most reads",
    )
    whiten_queries: bool = flag(
        "Retrofit",
        True,
        "make the queries white on the text, before healing and again after it: the table is used "
        "evenly",
    )

    def placement(self, width: int, layers: int) -> MemoryPlacement:
        """The placement in a model of this width and number of layers."""
        places = parse_layers(self.layers, "layers") or quarter_layers(layers)
        outside = [layer for layer in places if not 0 <= layer < layers]
        if outside:
            raise ValueError(
                f"--layers={self.layers}: layers {outside} are outside of this model, which has "
                f"layers 0 to {layers - 1}"
            )
        memory = memory_config(self, width)
        with blame_flag("--"):
            return MemoryPlacement(
                places,
                self.retrofit,  # pyright: ignore[reportArgumentType]
                memory,
                self.shared_pool,
                self.alpha,
            )


@dataclass(frozen=True)
class RetrofitFlags(MemoryFlags):
    """Flags of ``experiments.retrofit``."""

    retrofit: str = flag("Retrofit", "add", "add (beside the feed-forward) or replace")
    base: str = flag("Base", "", "directory of a Hugging Face checkpoint or of a base")
    dtype: str = flag("Base", "float32", "compute dtype: float32 or bfloat16")
    heal_texts: str = flag(
        "Retrofit", "", "text to heal on: a file, a directory or tfds:NAME:SPLIT"
    )
    heal_length: int = flag("Retrofit", 64, "tokens of a window of it")
    heal_tokens: int = flag("Retrofit", 1_000_000, "tokens of --heal_texts that are read")
    data_dir: str = flag("Base", "", "where prepared tensorflow-datasets lie")
    download: bool = flag("Base", False, "prepare sets that are not, which uses the network")
    seed: int = flag("Retrofit", 0, "seed of initial values and of the order of batches")
    out: str = flag(_OUT, "", "directory of the base to make; must not exist")
    overwrite: bool = flag(_OUT, False, "replace what stands at --out")


@dataclass(frozen=True)
class SweepFlags(MemoryFlags):
    """Flags of ``experiments.sweep``."""

    preset: str = flag("Preset", "", "the settings of a paper, a name in experiments/configs")
    scale: str = flag("Preset", "full", "full: the paper's sizes; tiny: the same path in a minute")
    methods: str = flag("Grid", ",".join(METHODS), f"any of {', '.join(METHODS)}")
    slots: str = flag("Grid", "64,512", "budgets: rows that a step may change in each pool")
    lr: str = flag(
        "Grid",
        "",
        "learning rates, for all methods (10,30) or by method (smf:10,30/full:3e-5,1e-4); empty: "
        "every method's own",
    )
    rule: str = flag("Grid", "", f"selection rules: any of {', '.join(RULES)} [tfidf]")
    granularity: str = flag("Grid", "", f"any of {', '.join(GRANULARITIES)} [per_step]")
    optimizer: str = flag("Grid", "", f"any of {', '.join(OPTIMIZERS)} [sgd for smf, else adamw]")
    batch_order: str = flag(
        "Grid",
        "",
        "how a task's paraphrases are dealt into batches: facts (all of a few facts) or shuffled "
        "[facts for smf, else shuffled]",
    )
    seeds: str = flag("Grid", "0", "seeds of the order of batches and of fresh parameters")
    shard: str = flag("Grid", "0/1", "run the i-th of n shares of the grid, as i/n from 0")
    base: str = flag(
        "Base and data", "world", "world (built in), or a directory: Hugging Face or a base"
    )
    base_seed: int = flag("Base and data", 0, "seed of the built-in world and its base")
    base_cache: str = flag(
        "Base and data", "runs/bases", "where built-in bases are kept, by hash of their recipe"
    )
    dtype: str = flag("Base and data", "float32", "compute dtype of a Hugging Face base")
    stream: str = flag(
        "Base and data",
        "",
        f"what is taught: world, a file of questions ({RECORD_FILES}), or tfds:NAME:SPLIT; empty: "
        "the base's world",
    )
    relation: str = flag("Base and data", "", "only questions of these relations of the file")
    tasks: int = flag("Base and data", 10, "tasks of the stream")
    facts_per_task: int = flag("Base and data", 20, "facts of a task")
    changed_share: float = flag(
        "Base and data", 0.2, "share of a world task's facts that change a known one"
    )
    stream_seed: int = flag("Base and data", 0, "deals the questions of a file into tasks")
    background: str = flag(
        "Base and data",
        "",
        "general text that slots are ranked against: a file, a directory, tfds:NAME:SPLIT, or a "
        "measured background; empty: what the base was taught",
    )
    background_batches: int = flag("Base and data", 250, "batches of background, B")
    background_batch_size: int = flag("Base and data", 32, "windows in one of them")
    recount_batches: int = flag(
        "Base and data",
        100,
        "batches of background that are counted again after the stream, for slot health and drift; "
        "0 for none",
    )
    probes: str = flag(
        "Base and data",
        "",
        "what is measured beside the stream, as NAME=FILE or NAME=KIND:FILE,…: questions "
        f"({RECORD_FILES}) or text, or by kind (docs/probes.md): {', '.join(KINDS)}; empty: the "
        "world's known facts and neutral text",
    )
    probe_limit: int = flag("Base and data", 500, "questions, items or windows of a probe")
    probe_shots: int = flag("Base and data", 0, "examples before each question of kind f1")
    probe_answer_tokens: int = flag("Base and data", 32, "tokens of an answer of kind f1, at most")
    probe_chat: bool = flag("Base and data", False, "kind f1 asks by the tokenizer's chat template")
    ppl_window: int = flag(
        "Base and data", 0, "tokens of a window of kind ppl; 0: 1,024, or what the model takes"
    )
    ppl_stride: int = flag("Base and data", 0, "tokens between windows; 0: half of a window")
    data_dir: str = flag("Base and data", "", "where prepared tensorflow-datasets lie")
    download: bool = flag("Base and data", False, "prepare sets that are not; uses the network")
    steps_per_task: int = flag(_TRAINING, 30, "steps of a task")
    batch_size: int = flag(_TRAINING, 40, "paraphrases in a batch")
    prompt_loss_weight: float = flag(_TRAINING, 0.1, "weight of the words that are not the answer")
    clip: float = flag(_TRAINING, 0.0, "largest global norm of a gradient; 0 for none")
    schedule: str = flag(_TRAINING, "constant", "constant, or cosine over the steps of a task")
    warmup_steps: int = flag(_TRAINING, 0, "steps of linear warm-up of a task")
    weight_decay: float = flag(_TRAINING, 0.01, "decoupled decay of adamw")
    keep_optimizer_state: bool = flag(_TRAINING, False, "moments outlive a task")
    train_alpha: bool = flag(_SPARSE, False, "also train the scale α of --retrofit=add")
    alpha_rate: float = flag(_SPARSE, 1.0, "rate of α, as a multiple of the rows'")
    alpha_schedule: bool = flag(_SPARSE, True, "whether the rate of α follows --schedule")
    micro_batches: int = flag(_SPARSE, 1, "parts of a batch that are run one after another")
    budget_scope: str = flag(
        _SPARSE, "per_layer", "per_layer: a budget for each pool; shared: one for all together"
    )
    score_share: float = flag(
        _SPARSE,
        0.0,
        "adaptive budget: no more than the best slots that cover this share of the score; 0: off",
    )
    protect_written: float = flag(
        _SPARSE,
        0.0,
        "rows that earlier tasks wrote count as used in so often as all background batches; 0: no",
    )
    count_normalised: bool = flag(_SPARSE, False, "divide a row's gradient by its number of reads")
    leaky: bool = flag(
        _SPARSE, False, "mask the gradient and not the update, as 2605.03229 published: rows leak"
    )
    store_rows: int = flag(
        _SPARSE, 0, "rows with optimizer state per pool; 0: all that a task can select"
    )
    lora_rank: int = flag(_TRAINING, 8, "rank of the adapters")
    lora_alpha: float = flag(_TRAINING, 16.0, "adapters act with lora_alpha / lora_rank")
    lora_targets: str = flag(
        _TRAINING, "query,key,value,output,gate,up,down", "projections with adapters"
    )
    replay_share: float = flag(_TRAINING, 0.5, "share of base data in a batch of replay")
    out: str = flag(_OUT, "runs/sweep", "directory of the run; must not exist")
    resume: bool = flag(_OUT, False, "go on with the run at --out where it stopped")
    overwrite: bool = flag(_OUT, False, "replace the run at --out")
    keep_checkpoints: str = flag(
        _OUT, "all", "all, or last: of methods without patches only the latest task's leaves"
    )
    eval_batch_size: int = flag(_OUT, 128, "rows of a probe that run at once")
    profile: str = flag(_OUT, "", "write a jax.profiler trace of the first task of each group here")


def parse_layers(text: str, name: str) -> tuple[int, ...]:
    """Reads ``6,12,18``.

    Raises:
      ValueError: naming the flag.
    """
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError(f"--{name}={text}: expected layer numbers, as in 6,12,18") from None


def quarter_layers(layers: int) -> tuple[int, ...]:
    """Blocks at a quarter, a half and three quarters of the depth: 6, 12, 18 of 24 (2604.05248)."""
    return tuple(sorted({layers // 4, layers // 2, 3 * layers // 4}))


def memory_config(flags: PretrainFlags | MemoryFlags, width: int) -> MemoryConfig:
    """The memory that the flags describe, for a model of this width.

    Raises:
      ValueError: naming the flag, such as ``--reads`` above ``--keys_per_half``.
    """
    if flags.memory_heads < 1:  # "heads" to the memory, which is another flag here
        raise ValueError(f"--memory_heads={flags.memory_heads}: expected at least 1")
    with blame_flag("--"):
        return MemoryConfig(
            keys_per_half=flags.keys_per_half,
            heads=flags.memory_heads,
            reads=flags.reads,
            key_width=flags.key_width,
            value_width=flags.value_width or width,
            gate=flags.gate,  # pyright: ignore[reportArgumentType]
            query_norm=flags.query_norm,  # pyright: ignore[reportArgumentType]
            qk_norm=flags.qk_norm,
            score=flags.score,  # pyright: ignore[reportArgumentType]
            output_norm=flags.output_norm,  # pyright: ignore[reportArgumentType]
            experts=flags.experts,
            key_scale=flags.key_scale,  # pyright: ignore[reportArgumentType]
            query_bias=flags.query_bias,
        )

"""What a decoder is: the frozen configuration of a model and of the memories placed in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from smf_jax.memory.config import MemoryConfig, MemoryInit, require_choices

Family = Literal["qwen2", "qwen3", "llama", "smollm3", "mistral", "olmo2", "gemma3_text"]
# What an RMS norm does with ``x / √(mean x² + ε)``, computed in float32: ``rounded`` returns to the
# compute dtype and then scales it, ``wide`` scales it first, ``offset`` does so by ``1 + scale``.
NormScale = Literal["rounded", "wide", "offset"]
Activation = Literal["silu", "gelu_tanh"]
PlacementMode = Literal["pretrain", "replace", "add"]
ComputeType = Literal["float32", "bfloat16", "float16", "float64"]
Precision = Literal["int8", "int4", "nf4"]


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3 scaling of the rotary frequencies (``rope_type: llama3``)."""

    factor: float  # long wavelengths are stretched by this
    # Wavelengths above ``original_max_positions`` over this are stretched.
    low_frequency_factor: float
    high_frequency_factor: float  # wavelengths below ``original_max_positions`` over this are kept
    original_max_positions: int  # context the model was first trained with

    def __post_init__(self) -> None:
        _require_positive(self, "rope_scaling.")
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError(
                f"rope_scaling.high_frequency_factor={self.high_frequency_factor} must be above "
                f"low_frequency_factor={self.low_frequency_factor}; were the two exchanged?"
            )


@dataclass(frozen=True)
class MemoryPlacement:
    """Where memories stand in a decoder, and how they join it."""

    layers: tuple[int, ...]  # indices of the blocks that read a memory; kept sorted
    # ``pretrain``: the memory is the block's feed-forward from the start (Memory+, 2412.09764);
    # ``replace``: it takes the place of a pretrained one (2604.05248); ``add``: ``ffn(x) +
    # α·memory(x)`` (2605.03229).
    mode: PlacementMode
    memory: MemoryConfig  # shape and choices of each memory
    # Whether all layers read one table, with queries and keys of their own.
    shared_pool: bool = False
    # Initial ``α`` of mode ``add``, ``None`` for no scale; unused by the others.
    alpha: float | None = 0.01
    # How the tables' rows start. With ``zero`` the model starts as its base, bit for bit.
    init_rows: MemoryInit = "normal"

    def __post_init__(self) -> None:
        require_choices(self)
        layers = tuple(sorted(self.layers))
        if not self.memory.value_width:
            raise ValueError("memory.value_width=0 is no width yet; give memory.for_width(d)")
        if not layers:
            raise ValueError("layers=() places no memory; name at least one layer, or place none")
        if len(set(layers)) < len(layers):
            raise ValueError(f"layers={self.layers} names a layer twice; name each one once")
        if self.init_rows == "zero" and self.mode != "add":
            raise ValueError(
                f"init_rows='zero' with mode={self.mode!r}: a memory that stands alone has to give "
                "something from the start; choose mode='add' or init_rows='normal'"
            )
        object.__setattr__(self, "layers", layers)

    @property
    def pools(self) -> tuple[int, ...]:
        """The pools, each named by the first layer that reads it."""
        return self.layers[:1] if self.shared_pool else self.layers

    def pool_of(self, layer: int) -> int:
        """The pool that ``layer`` reads."""
        return self.layers[0] if self.shared_pool else layer

    @property
    def has_alpha(self) -> bool:
        """Whether what a memory puts out is scaled by a learned ``α``."""
        return self.mode == "add" and self.alpha is not None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        return asdict(self) | {"layers": list(self.layers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemoryPlacement:
        """Reads what `to_dict` wrote."""
        known = _known_fields(cls, values)
        memory = MemoryConfig.from_dict(values["memory"])
        return cls(**known | {"layers": tuple(values["layers"]), "memory": memory})


@dataclass(frozen=True)
class ModelConfig:
    """One decoder of any `Family`.

    What only some families do is a switch, off by default: which checkpoints turn it on is told in
    `smf_jax.interop.huggingface.families`.
    """

    family: Family  # whose names and habits a checkpoint of this model has
    vocabulary: int  # rows of the embedding
    width: int  # ``d``, of the residual stream
    layers: int  # number of blocks
    heads: int  # query heads
    key_value_heads: int  # key and value heads; divides ``heads``
    head_width: int  # ``e``; ``heads * head_width`` need not be ``width``
    hidden_width: int  # ``f``, of the feed-forward
    rope_theta: float = 10_000.0  # base of the rotary frequencies
    rope_scaling: RopeScaling | None = None  # Llama-3 scaling of these, or ``None``
    norm_epsilon: float = 1e-6  # added to the mean square in every RMS norm
    tied: bool = False  # whether the head is the transposed embedding
    attention_bias: bool = False  # biases on query, key and value projections (Qwen2)
    attention_output_bias: bool = False  # a bias on the attention's output projection
    feed_forward_bias: bool = False  # biases on gate, up and down projections
    query_key_norm: bool = False  # RMS norm of queries and keys per head, before rotation (Qwen3)
    query_key_norm_over_heads: bool = False  # one of all heads together instead (OLMo-2)
    input_norms: bool = True  # norms of what attention and feed-forward take in (not OLMo-2)
    output_norms: bool = False  # norms of what attention and feed-forward put out (OLMo-2)
    norm_scale: NormScale = "rounded"  # how norms scale: ``wide`` in OLMo-2, ``offset`` in Gemma 3
    activation: Activation = "silu"  # of the feed-forward's gate
    # Whether what enters the first block is ``√width`` times a token's row (Gemma 3).
    scaled_embedding: bool = False
    # Scores are divided by the root of this, ``None`` for ``head_width`` (Gemma 3).
    score_width: float | None = None
    unrotated_layers: tuple[int, ...] = ()  # blocks without rotary positions (SmolLM3); kept sorted
    # Blocks that see a window of tokens (Mistral, Gemma 3); kept sorted.
    sliding_layers: tuple[int, ...] = ()
    sliding_window: int | None = None  # tokens that these see, the one that looks among them
    # Base of their rotary frequencies, unscaled; ``None`` for those of all blocks (Gemma 3).
    sliding_rope_theta: float | None = None
    max_positions: int = 2048  # longest sequence the model takes
    # Compute dtype; norms, rotations, softmaxes and logits are float32 at least.
    dtype: ComputeType = "float32"
    # How matrices are held that nobody trains (`smf_jax.models.quantised`), ``None`` for floats.
    precision: Precision | None = None
    # Whether the dense halves of the blocks are recomputed in the backward pass.
    remat: bool = False
    memory: MemoryPlacement | None = None  # where memories stand, or ``None`` for a plain model

    def __post_init__(self) -> None:
        require_choices(self)
        _require_positive(self)
        self._check_layers("unrotated_layers")
        self._check_layers("sliding_layers")
        if bool(self.sliding_layers) != (self.sliding_window is not None):
            raise ValueError(
                f"sliding_window={self.sliding_window} with sliding_layers={self.sliding_layers}: "
                "give a window and the blocks that it is for, or neither"
            )
        if self.sliding_rope_theta is not None and not self.sliding_layers:
            raise ValueError(
                f"sliding_rope_theta={self.sliding_rope_theta} with sliding_layers=(): name the "
                "blocks that it is for"
            )
        if self.query_key_norm and self.query_key_norm_over_heads:
            raise ValueError(
                "query_key_norm=True with query_key_norm_over_heads=True: queries and keys are "
                "normalised per head or over all heads; choose one"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"heads={self.heads} is not a multiple of key_value_heads={self.key_value_heads}; "
                "every key head serves the same number of query heads"
            )
        if self.head_width % 2:
            raise ValueError(
                f"head_width={self.head_width} must be even: rotary positions turn pairs"
            )
        placed = () if self.memory is None else self.memory.layers
        if outside := [layer for layer in placed if not 0 <= layer < self.layers]:
            raise ValueError(
                f"memory layers {outside} do not exist: the model has {self.layers} layers, "
                f"0 to {self.layers - 1}; place memories in that range"
            )

    def _check_layers(self, name: str) -> None:
        """Sorts a field that names blocks, and refuses those that there are not."""
        layers = tuple(sorted(set(getattr(self, name))))
        if outside := [layer for layer in layers if not 0 <= layer < self.layers]:
            raise ValueError(
                f"{name}={layers} names the blocks {outside}, which do not exist: the model has "
                f"{self.layers}, 0 to {self.layers - 1}"
            )
        object.__setattr__(self, name, layers)

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads // self.key_value_heads

    def rotary(self, layer: int) -> tuple[float, RopeScaling | None]:
        """Base and scaling of the rotary frequencies of block ``layer``."""
        own = self.sliding_rope_theta if layer in self.sliding_layers else None
        return (self.rope_theta, self.rope_scaling) if own is None else (own, None)

    @property
    def in_float(self) -> ModelConfig:
        """The same model with matrices in float."""
        return replace(self, precision=None)

    def has_memory(self, layer: int) -> bool:
        """Whether block ``layer`` reads a memory."""
        return self.memory is not None and layer in self.memory.layers

    @property
    def context_tokens(self) -> int:
        """The last tokens whose ids the memories look at; 0 for none."""
        return 0 if self.memory is None else self.memory.memory.context_tokens

    def has_feed_forward(self, layer: int) -> bool:
        """Whether block ``layer`` keeps its feed-forward: all but those a memory stands in for."""
        return not self.has_memory(layer) or (self.memory is not None and self.memory.mode == "add")

    def with_memory(self, placement: MemoryPlacement | None) -> ModelConfig:
        """The same model with memories placed by ``placement``, or with none."""
        return replace(self, memory=placement)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        return asdict(self) | {"memory": self.memory and self.memory.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Reads what `to_dict` wrote; unknown keys and values that do not fit are a ValueError."""
        scaling, memory = values.get("rope_scaling"), values.get("memory")
        nested = {
            "rope_scaling": None if scaling is None else RopeScaling(**scaling),
            "memory": None if memory is None else MemoryPlacement.from_dict(memory),
        }
        return cls(**_known_fields(cls, values) | nested)


def _known_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """``values``, if all of its keys are fields of the dataclass ``cls``."""
    if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
        raise ValueError(
            f"{cls.__name__} has no fields {unknown}; was this written by another version?"
        )
    return dict(values)


def _require_positive(section: Any, prefix: str = "") -> None:
    for field in fields(section):
        value = getattr(section, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
            raise ValueError(f"{prefix}{field.name}={value} must be above 0")

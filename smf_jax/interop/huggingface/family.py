"""What tells the checkpoints of one family from those of another; `families` has one file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from smf_jax.models.config import Family, ModelConfig
from smf_jax.typed_json import JsonObject

# Module here -> module there, as Llama names them; those of a block stand below it. Of the leaves,
# a bias is a bias and everything else is the weight; kernels are (in, out) here, (out, in) there.
MODULES = {
    "embedder": "model.embed_tokens",
    "attention_norm": "input_layernorm",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward/gate": "mlp.gate_proj",
    "feed_forward/up": "mlp.up_proj",
    "feed_forward/down": "mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}
QUERY_KEY_NORMS = {
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
}
# Keys of features that the decoder does not have, with the values by which a file does without.
PLAIN = {
    "hidden_act": ("silu", "swish"),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}
FULL, SLIDING = "full_attention", "sliding_attention"  # values of ``layer_types``


def _nothing(config: ModelConfig) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class FamilyFormat:
    """How the files of a family are to be read and written.

    Sizes, rotations, the head and the norms' epsilon are keys that all families share; `read` and
    `write` are for the others.
    """

    name: Family  # ``model_type``
    architecture: str  # the class of ``transformers``
    # What ``transformers`` assumes of keys that a file leaves out; a null key is not left out.
    assumed: Mapping[str, Any]
    # From a ``config.json``, completed by what is assumed, and the number of blocks: the switches
    # of this family, fields of `ModelConfig`.
    read: Callable[[JsonObject, int], dict[str, Any]]
    modules: Mapping[str, str]  # module here -> module there
    # The inverse of `read`: keys beside, or in place of, those of all families; ``...`` is no key.
    write: Callable[[ModelConfig], dict[str, Any]] = _nothing
    # Keys with the values that are read.
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: PLAIN)
    attention: tuple[str, ...] = (FULL,)  # kinds of ``layer_types`` that are read

    def complete(self, told: JsonObject) -> JsonObject:
        """A ``config.json`` with the keys that it leaves out."""
        return JsonObject({**self.assumed, **told.values}, told.place)

    def check(self, told: JsonObject) -> None:
        """Refuses features that would change the logits and that are not read."""
        ropes = [told.section(name).values for name in ("rope_parameters", "rope_scaling")]
        told = JsonObject({**ropes[0], **ropes[1], **told.values}, told.place)
        allowed = {key: values for key, values in self.only.items() if key in told.values}
        refused = {k: values for k, values in allowed.items() if not _among(told.values[k], values)}
        if set(told.many("layer_types", str)) - set(self.attention):
            refused["layer_types"] = self.attention
        if refused:
            found = ", ".join(f"{key}={told.values[key]!r}" for key in refused)
            fine = "; ".join(
                f"{key} {' or '.join(map(repr, values))}" for key, values in refused.items()
            )
            raise told.error(f"{found} is not supported: a {self.name} model is read with {fine}")


def _among(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether a JSON value is one of some; true is no 1."""
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed
    )

"""The families whose checkpoints are read and written, one file each.

A further one is a file here that says how it differs from Llama, a name in
`smf_jax.models.config.Family` and a place in `FAMILIES`. What its model does that no other does is
a field of `smf_jax.models.config.ModelConfig`, off by default.
"""

from smf_jax.interop.huggingface.families.gemma3 import GEMMA3
from smf_jax.interop.huggingface.families.llama import LLAMA
from smf_jax.interop.huggingface.families.mistral import MISTRAL
from smf_jax.interop.huggingface.families.olmo2 import OLMO2
from smf_jax.interop.huggingface.families.qwen2 import QWEN2
from smf_jax.interop.huggingface.families.qwen3 import QWEN3
from smf_jax.interop.huggingface.families.smollm3 import SMOLLM3
from smf_jax.interop.huggingface.family import FamilyFormat

FAMILIES: dict[str, FamilyFormat] = {
    each.name: each for each in (QWEN2, QWEN3, LLAMA, SMOLLM3, MISTRAL, OLMO2, GEMMA3)
}

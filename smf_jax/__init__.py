"""Sparse memory finetuning in JAX: product-key memory whose rows learn a few facts at a time.

These are the public names; what else a module holds may change. Parameters are flat everywhere:
``{"layers_0/attention/query/kernel": array, …}`` (`flatten`, `unflatten`).
"""

from smf_jax.bases.base import Base, load_base, save_base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.methods import METHODS
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.stream_data import chunked
from smf_jax.continual.sweep import run_sweep
from smf_jax.data.batching import Batch, encode_paraphrases, needed_length, pack_texts
from smf_jax.data.facts import Fact, Paraphrase, Task
from smf_jax.data.tokenizer import Tokenizer, load_tokenizer
from smf_jax.interop.export.model import export_model, load_exported
from smf_jax.interop.export.patches import load_patch, save_patch
from smf_jax.interop.huggingface.checkpoint import load_huggingface, save_huggingface
from smf_jax.memory.config import MemoryConfig
from smf_jax.memory.layer import MemoryLayer, MemoryPool
from smf_jax.models.completion import complete_texts
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import Decoder, init_params
from smf_jax.models.generate import generate
from smf_jax.models.retrofit import retrofit
from smf_jax.params import Params, flatten, unflatten
from smf_jax.sparse.optimizers import OPTIMIZERS, OptimizerConfig
from smf_jax.sparse.patch import Patch, apply_patch, diff_params, revert_patch
from smf_jax.sparse.patch_sets import compare_patches, merge_patches, stack_patches
from smf_jax.sparse.rules import RULES, Rule, score_slots
from smf_jax.sparse.selection import select_slots
from smf_jax.sparse.transform import freeze_all_but_rows
from smf_jax.sparse.usage import Background
from smf_jax.training.background import measure_background
from smf_jax.training.foreign_tables import check_index, foreign_tables, token_ids
from smf_jax.training.memory_model import MemoryModel, memory_model
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_step import SparseState, sparse_step
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared
from smf_jax.training.teach import teach
from smf_jax.training.trainers import Trainer, dense_trainer, lora_trainer
from smf_jax.training.whitening import whiten_queries
from smf_jax.version import __version__

__all__ = [
    "METHODS",
    "OPTIMIZERS",
    "RULES",
    "Background",
    "Base",
    "Batch",
    "Decoder",
    "Fact",
    "MemoryConfig",
    "MemoryLayer",
    "MemoryModel",
    "MemoryPlacement",
    "MemoryPool",
    "ModelConfig",
    "OptimizerConfig",
    "Params",
    "Paraphrase",
    "Patch",
    "PretrainConfig",
    "Rule",
    "RunDirectory",
    "Settings",
    "Shared",
    "SparseConfig",
    "SparseState",
    "SweepConfig",
    "Task",
    "Tokenizer",
    "Trainer",
    "__version__",
    "apply_patch",
    "check_index",
    "chunked",
    "compare_patches",
    "complete_texts",
    "dense_trainer",
    "diff_params",
    "encode_paraphrases",
    "export_model",
    "flatten",
    "foreign_tables",
    "freeze_all_but_rows",
    "generate",
    "init_params",
    "load_base",
    "load_exported",
    "load_huggingface",
    "load_patch",
    "load_tokenizer",
    "lora_trainer",
    "measure_background",
    "memory_model",
    "merge_patches",
    "needed_length",
    "pack_texts",
    "retrofit",
    "revert_patch",
    "run_sweep",
    "save_base",
    "save_huggingface",
    "save_patch",
    "score_slots",
    "select_slots",
    "sparse_step",
    "sparse_trainer",
    "stack_patches",
    "teach",
    "token_ids",
    "unflatten",
    "whiten_queries",
]

"""Checkpoints: arrays and metadata on disk, whole or not at all, every leaf with its digest."""

from smf_jax.checkpoints.manifest import FORMAT
from smf_jax.checkpoints.store import copies, is_complete, load, read_manifest, read_metadata, save

__all__ = ["FORMAT", "copies", "is_complete", "load", "read_manifest", "read_metadata", "save"]

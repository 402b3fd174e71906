"""Decoders: configuration, modules, retrofits, LoRA, generation and the Hugging Face formats."""

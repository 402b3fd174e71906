"""Other people's formats: Hugging Face checkpoints, exports, public memory layers."""

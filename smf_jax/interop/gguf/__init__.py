"""GGUF files of llama.cpp, read: a model, its configuration and its tokenizer in one file."""

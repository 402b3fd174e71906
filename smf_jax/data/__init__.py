"""Facts, texts and tokens: where they come from and how they become arrays."""

"""A taught model over HTTP: OpenAI's interface, every set of its patches a model, and a page."""

"""A model that was taught a file of facts: its directory, teaching, asking, taking back."""

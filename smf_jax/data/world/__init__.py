"""The built-in world: invented facts, a lexicon, neutral text."""

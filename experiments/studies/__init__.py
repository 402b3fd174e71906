"""Studies: small experiments with a command of their own."""

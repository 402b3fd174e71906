"""Training: parameter trees by path, steps, the methods as trainers, the loop over tasks."""

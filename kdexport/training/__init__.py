"""Training: the loop, its checkpoints, and the soft labels it reads."""

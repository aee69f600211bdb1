"""State, step, loop and hooks of training."""

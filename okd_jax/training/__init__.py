"""The training step, its state and its loop over devices."""

"""Trained weights: reading, writing, and prediction with them."""

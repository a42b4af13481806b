"""Trained weights, in and out."""

"""Recipes: one a method and data set."""

"""Readers of data sets in files, one module for each format."""

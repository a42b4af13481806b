"""Bytes on disk: checkpoints, manifests, locks. Knows no network."""

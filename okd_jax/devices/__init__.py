"""Meshes of devices, the host, the processes of a run, and signals."""

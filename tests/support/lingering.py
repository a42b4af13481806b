"""Imported by processes that are killed while they save.

While the file `$LINGERS` is there, a save waits before it writes its manifest:
saves of a toy are over sooner than a kill comes.
"""

import os
import time

from okd_jax.storage import manifest

_write = manifest.write


def write(*args):
  if os.path.exists(os.environ["LINGERS"]):
    time.sleep(0.15)
  _write(*args)


manifest.write = write

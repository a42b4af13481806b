"""Google Cloud Storage: how it is reached, and objects made on conditions.

Paths are those of epath over gcsfs, as Orbax uses it.
"""

import logging
import os
from typing import TYPE_CHECKING

from okd_jax.errors import ConfigError

if TYPE_CHECKING:
  from etils import epath


def path(address: str) -> "epath.Path":
  """A path of gs://BUCKET/PATH.

  Raises:
    ConfigError: if the packages for it are not installed.
  """
  try:
    from etils import epath
    import fsspec
    import gcsfs
    from google.cloud import storage
  except ImportError as error:
    raise ConfigError(
      f"{address} needs packages for buckets ({error}); "
      "pip install gcsfs google-cloud-storage adds them."
    ) from error
  del gcsfs, storage  # only whether they are there
  # What fails is raised; gcsfs also prints it, with a traceback.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  # Other programs write there too.
  fsspec.config.conf.setdefault("gs", {}).setdefault(
    "use_listings_cache", False
  )
  return epath.Path(address)


class Object:
  """One object, written only where nobody else has written since.

  Args:
    path: of the object.
  """

  def __init__(self, path: "epath.Path"):
    from google.api_core import exceptions
    from google.cloud import storage

    self._failed = exceptions.PreconditionFailed
    self._missing = exceptions.NotFound
    name, _, key = os.fspath(path).removeprefix("gs://").partition("/")
    self._bucket = storage.Client().bucket(name)
    self._key = key

  def read(self) -> tuple[bytes, int] | None:
    """Content and generation; None if there is no such object."""
    blob = self._bucket.blob(self._key)
    try:
      content = blob.download_as_bytes()
    except self._missing:
      return None
    return content, int(blob.generation or 0)

  def replace(self, content: bytes, generation: int) -> int | None:
    """Writes it if its generation is still this one, 0 if it is not there.

    Returns:
      The new generation; None if somebody else was faster.
    """
    blob = self._bucket.blob(self._key)
    try:
      blob.upload_from_string(content, if_generation_match=generation)
    except self._failed:
      return None
    return int(blob.generation or 0)

  def remove(self, generation: int) -> None:
    """Deletes it if its generation is still this one."""
    try:
      self._bucket.blob(self._key).delete(if_generation_match=generation)
    except (self._failed, self._missing):
      pass

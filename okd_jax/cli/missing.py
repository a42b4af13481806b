"""Says which packages are missing, instead of a traceback; imports no other."""

from collections.abc import Iterator
import contextlib
import sys

# What `pip install okd-jax` leaves out and every program needs.
_TRAIN = (
  "absl",
  "filelock",
  "flatbuffers",
  "ml_collections",
  "orbax",
  "PIL",
  "rich",
  "safetensors",
  "sklearn",
  "tensorboardX",
)
_EXIT_CODE = 2


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Ends the program with a remedy if a package of an extra is missing."""
  try:
    yield
  except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in _TRAIN:
      raise
    print(
      f"okd_jax: {error}; the programs need more packages than the library. "
      "pip install 'okd-jax[train]' adds them; in a clone it is pip install -r "
      "requirements.txt.",
      file=sys.stderr,
      flush=True,
    )
    sys.exit(_EXIT_CODE)

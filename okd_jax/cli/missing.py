"""Names missing packages instead of a traceback; imports no package itself."""

from collections.abc import Iterator
import contextlib
import sys

# What every program needs, including dependencies of okd-jax itself: one that
# was never installed, or is broken, is noticed first.
_NEEDED = (
  "chex",
  "flax",
  "jax",
  "jaxlib",
  "numpy",
  "optax",
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
  """Ends the program with a remedy if a package that it needs is missing."""
  try:
    yield
  except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in _NEEDED:
      raise
    print(
      f"okd_jax: {error}; the programs need it. In a clone of the repository, "
      "pip install -r requirements.txt adds all that they need.",
      file=sys.stderr,
      flush=True,
    )
    sys.exit(_EXIT_CODE)

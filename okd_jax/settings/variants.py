"""Words behind the colon of --config=FILE:word,word."""

from okd_jax import backbones
from okd_jax.errors import closest, ConfigError

# Those of every recipe, besides networks.
COMMON = ("branches", "replicas", "smoke")


def require_network(word: str) -> str:
  """Returns a word that no recipe has as a variant, if it names a network.

  Args:
    word: a name of `backbones.names()`, with or without "@" and a fraction, or
      module:Class.

  Raises:
    ConfigError: if it does not.
  """
  known = backbones.names()
  if ":" in word or word.partition("@")[0] in known:
    return word
  raise ConfigError(
    f"'{word}' behind the colon of --config is neither a variant nor a network"
    f"{closest(word, (*COMMON, *known))} Every recipe has the variants "
    f"{', '.join(COMMON)}; more are in the first lines of some recipes. "
    "`python -m okd_jax nets` lists the networks."
  )

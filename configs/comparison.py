"""What all comparisons share: every key at its default.

What every key means stands in docs/settings.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from configs import common
from okd_jax import methods


def grid(
  base: ConfigDict,
  net: str,
  teacher_net: str,
  task: str = "classification",
) -> ConfigDict:
  """Every method of a task on one network, three seeds, by one recipe.

  Args:
    base: the recipe of all runs, without a method.
    net: what is compared.
    teacher_net: the larger network, see `okd_jax.settings.schema.Comparison`.
    task: what the data are for.
  """
  config = ConfigDict()
  config.base = base
  # Rows besides one network alone, which is always there.
  names = [
    name for name in methods.names() if task in methods.load(name)().tasks
  ]
  config.methods = ("independent",) + tuple(
    name for name in names if name != "independent"
  )
  config.nets = (net,)
  config.seeds = (0, 1, 2)
  # As in its paper.
  config.kinds = ConfigDict(
    {
      name: methods.load(name)().published_kind or base.peers.kind
      for name in names
    }
  )
  config.options = ConfigDict({name: methods.options(name) for name in names})
  config.teacher_net = teacher_net
  # Figures to stand beside ours.
  config.published = str(Path(__file__).with_name("published.json"))
  return config


def variant(config: ConfigDict, words: str | None) -> ConfigDict:
  """Applies the words behind the colon of --config=FILE:word,word.

  Args:
    config: of a comparison, changed in place.
    words: "smoke", which takes two methods and two seeds and makes their runs
      as short as a test needs them, or networks to compare.

  Returns:
    The same config.
  """
  nets = [word for word in (words or "").split(",") if word]
  if "smoke" in nets:
    nets.remove("smoke")
    # What the data become follows from the network.
    config.base.peers.net = config.nets[0]
    common.smoke(config.base)
    config.nets = (config.base.peers.net,)
    config.teacher_net = config.base.peers.net
    other = "okddip" if "okddip" in config.methods else "okdhp"
    config.methods = ("independent", other)
    config.seeds = (0, 1)
  elif nets:
    config.nets = tuple(nets)
  return config

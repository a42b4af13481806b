"""What all recipes share: every key, with its meaning, at its default.

A recipe starts from `base()` and changes what it is about. What every key means
stands in docs/settings.md, as `okd_jax.settings.schema` has it.
"""

from ml_collections import ConfigDict

from okd_jax.settings.freeze import base as base, method as method
from okd_jax.settings.variants import require_network


def digits(config: ConfigDict) -> ConfigDict:
  """Real 8x8 images that come with scikit-learn: for demonstrations."""
  config.data.name = "digits"
  config.peers.net = "resnet8"
  config.epochs = 30
  config.batch_size = 64
  config.eval_batch_size = 360
  config.log_steps = 20
  config.optim.learning_rate = 0.05
  return config


def fashion_mnist(config: ConfigDict) -> ConfigDict:
  """60,000 real 28x28 grey images of clothes."""
  config.data.name = "fashion_mnist"
  config.data.source = "tfds"
  config.peers.net = "resnet20"
  config.epochs = 60
  config.optim.learning_rate = 0.1
  return config


def cifar(config: ConfigDict, name: str) -> ConfigDict:
  """CIFAR-10 or CIFAR-100 as in Chen et al., AAAI 2020."""
  config.data.name = name
  return config


def stickfolk(config: ConfigDict) -> ConfigDict:
  """Drawn figures of 96x96 with the joints of MPII: for demonstrations."""
  config.data.name = "stickfolk/easy"
  config.data.image_size = 64
  config.data.keypoints.scale = 0.15
  config.data.keypoints.rotation = 15.0
  config.data.keypoints.sigma = 1.0
  config.epochs = 60
  config.batch_size = 16
  config.eval_batch_size = 100
  config.eval_epochs = 3
  config.optim.name = "adam"
  config.optim.learning_rate = 3e-3
  config.optim.weight_decay = 0.0
  config.schedule.name = "cosine"
  return config


def pose(config: ConfigDict) -> ConfigDict:
  """Keypoints as in Li et al., ICCV 2021; the data are still to be named."""
  config.data.source = "stream"
  config.peers.net = "hourglass4"
  config.batch_size = 16
  config.eval_batch_size = 32
  config.optim.name = "adam"
  config.optim.learning_rate = 2.5e-4
  config.optim.weight_decay = 0.0
  return config


def variant(config: ConfigDict, words: str | None) -> ConfigDict:
  """Applies the words behind the colon of --config=FILE:word,word.

  Args:
    config: changed in place.
    words: any of a network's name, "branches", "replicas", and "smoke", which
      makes the run as short as a test needs it.

  Returns:
    The same config.
  """
  for word in (words or "").split(","):
    if word in ("branches", "replicas"):
      config.peers.kind = word
    elif word == "smoke":
      smoke(config)
    elif word:
      config.peers.net = require_network(word)
  return config


def branch_dropout(config: ConfigDict) -> ConfigDict:
  """Adds the dropout of VGG-16's branches, as in the code of Chen et al."""
  if config.peers.net == "vgg16" and config.peers.kind == "branches":
    config.peers.dropout = 0.5
  return config


def take(words: str, word: str) -> tuple[str, bool]:
  """Takes a recipe's own word out of the words behind the colon."""
  given = words.split(",")
  return ",".join(w for w in given if w != word), word in given


def smoke(config: ConfigDict) -> None:
  """Shrinks a run to seconds: a small network and few examples."""
  nets = config.peers.net.split(",")
  if nets[0].startswith("hourglass"):
    config.peers.net = ",".join("hourglass2_small" for _ in nets)
    config.peers.split = 0
    stickfolk(config)
    config.data.keypoints.width = 0
    config.data.train_examples = 40
  else:
    config.peers.net = ",".join("resnet8" for _ in nets)
    config.data.name = "digits"
    config.data.train_examples = 100
  config.data.source = "memory"
  config.image_mean, config.image_std = (), ()
  config.batch_size = 20
  config.epochs = 2
  config.schedule.warmup_epochs = min(1.0, config.schedule.warmup_epochs)
  config.log_steps = 1

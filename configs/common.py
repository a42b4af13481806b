"""What all recipes share: every key, with its meaning, at its default.

A recipe starts from `base()` and changes what it is about. Where a library
class has the default, it is read from there, so that it stands in one place.
"""

import dataclasses

from ml_collections import ConfigDict

from okd_jax import data, methods
from okd_jax.training.optim import Sgd


def base() -> ConfigDict:
  """A run on CIFAR-100 as in Chen et al., AAAI 2020, without a method."""
  config = ConfigDict()
  # Sets initial values, order of examples, augmentation and dropout.
  config.seed = 0
  # So many runs, of seed, seed + 1 and so on, each in a folder of its own.
  config.num_seeds = 1
  # one_by_one, at_once in one program, or auto, which measures once which is
  # faster.
  config.seeds_mapping = "auto"
  # Passes over the training examples.
  config.epochs = 300
  # Images in one step, over all devices.
  config.batch_size = 128
  # Images in one step of evaluation, over all devices.
  config.eval_batch_size = 500
  # Epochs until distillation has its full weight; follows config.epochs.
  config.rampup_epochs = (config.get_ref("epochs") * 160 + 300) // 600
  # Whether the ramp-up moves every step; every epoch otherwise.
  config.rampup_per_step = False
  # What networks compute in: float32 or bfloat16.
  config.precision = "float32"
  # Same numbers on every run on a GPU too, at some cost.
  config.deterministic = False

  # The frozen teacher of two-stage distillation: the work directory of a run,
  # or a PyTorch state dict (.safetensors, .pth) and the network it belongs to.
  config.teacher = ""
  config.teacher_net = ""

  # Mean and deviation of each channel; empty for the data set's own.
  config.image_mean = ()
  config.image_std = ()
  # How images are padded before the crop: constant (black) or reflect.
  config.pad_mode = "constant"

  # The data set; the meaning of every key stands in okd_jax.data.Config.
  config.data = ConfigDict(dataclasses.asdict(data.Config(name="cifar100")))

  # Trained weights to start from: a work directory of a group of the same
  # shape, or an exported leader for every peer; see okd_jax.weights.init_from.
  config.init_from = ""

  config.peers = ConfigDict()
  # replicas: whole networks. branches: tails on one shared trunk.
  config.peers.kind = "replicas"
  # A name of okd_jax.backbones; one a peer, joined by commas, if they differ.
  config.peers.net = "resnet32"
  # Networks or branches, the leader included.
  config.peers.num_peers = 4
  # Stages in the trunk; 0 is the network's own choice.
  config.peers.split = 0
  # Dropout rate in the classifier, for networks that have one (vgg16).
  config.peers.dropout = 0.0
  # unroll, vmap, or auto, which measures once which is faster.
  config.peers.mapping = "auto"

  # The optimiser; every key is explained in okd_jax.training.optim.Sgd.
  config.optim = ConfigDict(dataclasses.asdict(Sgd()))

  config.mesh = ConfigDict()
  # Devices that the batch is spread over; -1 is all that are left.
  config.mesh.data = -1
  # Devices that the peers are spread over; -1 is 1 on accelerators and what
  # suits the cores on CPU.
  config.mesh.peer = -1

  # Steps between two records of the loss terms, which are means over them.
  config.log_steps = 50
  # Epochs between two evaluations.
  config.eval_epochs = 1
  # Seconds between two checkpoints.
  config.checkpoint_secs = 60.0
  # Experiment trackers to log to as well: "wandb", "mlflow".
  config.trackers = ()
  return config


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


def method(name: str, **hyperparameters) -> ConfigDict:
  """The section of a method: its hyperparameters, some of them replaced."""
  return ConfigDict({"name": name, **methods.options(name), **hyperparameters})


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
      config.peers.net = word
  return config


def take(words: str, word: str) -> tuple[str, bool]:
  """Takes a recipe's own word out of the words behind the colon."""
  given = words.split(",")
  return ",".join(w for w in given if w != word), word in given


def smoke(config: ConfigDict) -> None:
  """Shrinks a run to seconds: a small network and few examples."""
  config.peers.net = ",".join("resnet8" for _ in config.peers.net.split(","))
  config.data.name = "digits"
  config.data.source = "memory"
  config.data.train_examples = 100
  config.image_mean, config.image_std = (), ()
  config.batch_size = 20
  config.epochs = 2
  config.log_steps = 1

"""MCL-OKD on CIFAR-100, four ResNet-32 branches (Yang et al., ICASSP 2021).

Published top-1 error in %, ResNet-32: 24.52 (read-me of the authors' code;
number of runs and choice of epoch unknown). Batches of 64 and a rate of 0.05
that falls by a cosine, as there. Variants: any network of okd_jax.backbones;
VGG and HCGNet share their trunk and draw as many negatives as there.

    python main.py --config=configs/mcl_okd_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  recipe(config)
  config.batch_size = 64
  config.optim.learning_rate = 0.05
  if data_set == "cifar100":
    config.image_mean = (0.5071, 0.4867, 0.4408)
    config.image_std = (0.2675, 0.2565, 0.2761)
  config = common.variant(config, words)
  if config.peers.net.startswith("vgg"):
    config.peers.split = 3
  if config.peers.net.startswith(("vgg", "hcgnet")):
    config.method.num_negatives = 16384
  return few_negatives(config)


def recipe(config):
  """The method, branches after the first stage, and a rate that falls to 0."""
  config.method = common.method("mcl_okd")
  config.peers.kind = "branches"
  config.peers.split = 1
  config.schedule.name = "cosine"


def few_negatives(config):
  """Draws no more negatives than a run as short as a test's has."""
  if config.data.train_examples:
    config.method.num_negatives = config.data.train_examples // 2
  return config

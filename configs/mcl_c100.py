"""MCL on CIFAR-100, two ResNet-32 networks (Yang et al., AAAI 2022).

Published top-1 accuracy in %, mean of three runs, best epoch on test data: two
networks 72.96 +- 0.28, four branches 74.04 +- 0.07 (the authors' repository).
The rate falls by a cosine, at every step where theirs does once an epoch.
Variants: any network of okd_jax.backbones, and "branches": four, which share
the stem and the first stage.

    python main.py --config=configs/mcl_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  recipe(config)
  config.schedule.name = "cosine"
  if data_set == "cifar100":
    config.image_mean = (0.5071, 0.4867, 0.4408)
    config.image_std = (0.2675, 0.2565, 0.2761)
  config = common.variant(config, words)
  if config.peers.kind == "branches":
    config.peers.num_peers, config.peers.split = 4, 1
  return config


def recipe(config):
  """The method, two networks, and batches with two images of each class."""
  config.method = common.method("mcl")
  config.peers.num_peers = 2
  config.data.per_class = 2

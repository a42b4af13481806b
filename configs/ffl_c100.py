"""FFL on CIFAR-100, two ResNet-32 branches (Kim et al., ICPR 2020).

Published top-1 accuracy in %, sub-network, ResNet-32: 72.18 +- 0.11 (Wu and
Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones and "replicas"; the authors'
network of depth 110 is resnet110_basic.

    python main.py --config=configs/ffl_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("ffl")
  config.peers.kind = "branches"
  config.peers.num_peers = 2
  config.pad_mode = "reflect"
  config.optim.weight_decay = 1e-4
  if data_set == "cifar100":
    config.image_mean = tuple(v / 255 for v in (129.3, 124.1, 112.4))
    config.image_std = tuple(v / 255 for v in (68.2, 65.4, 70.4))
  return common.variant(config, words)

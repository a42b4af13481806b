"""FFL on CIFAR-10, two ResNet-32 branches (Kim et al., ICPR 2020).

Published top-1 accuracy in %, sub-network, ResNet-32: 94.01 +- 0.11 (Wu and
Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones and "replicas"; the authors'
network of depth 110 is resnet110_basic.

    python main.py --config=configs/ffl_c10.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.cifar(common.base(), "cifar10")
  config.method = common.method("ffl")
  config.peers.kind = "branches"
  config.peers.num_peers = 2
  config.pad_mode = "reflect"
  config.optim.weight_decay = 1e-4
  return common.variant(config, words)

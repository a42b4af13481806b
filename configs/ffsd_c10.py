"""FFSD on CIFAR-10, two students and a leader of ResNet-32 (Li et al., 2022).

Reproduces no published figure. Variants: any network of okd_jax.backbones.

    python main.py --config=configs/ffsd_c10.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.cifar(common.base(), "cifar10")
  config.method = common.method("ffsd")
  config.peers.num_peers = 3
  config.pad_mode = "reflect"
  config.optim.weight_decay = 1e-4
  return common.variant(config, words)

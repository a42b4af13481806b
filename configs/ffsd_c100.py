"""FFSD on CIFAR-100, two students and a leader of ResNet-32 (Li et al., 2022).

Published top-1 accuracy in % of the leader, mean of three runs: ResNet-32
74.85, ResNet-20 72.70 (the authors' repository). Variants: any network of
okd_jax.backbones.

    python main.py --config=configs/ffsd_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("ffsd")
  config.peers.num_peers = 3
  config.pad_mode = "reflect"
  config.optim.weight_decay = 1e-4
  return common.variant(config, words)

"""CL-ILR on CIFAR-100, four ResNet-32 branches (Song and Chai, NeurIPS 2018).

Published top-1 accuracy in %, mean of branches, ResNet-32: 72.33 +- 0.46 (Wu
and Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones.

    python main.py --config=configs/cl_ilr_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("cl_ilr")
  config.peers.kind = "branches"
  return common.branch_dropout(common.variant(config, words))

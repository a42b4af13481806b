"""CL-ILR on CIFAR-10, four ResNet-32 branches (Song and Chai, NeurIPS 2018).

Published top-1 accuracy in %, mean of branches, ResNet-32: 94.02 +- 0.28 (Wu
and Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones.

    python main.py --config=configs/cl_ilr_c10.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.cifar(common.base(), "cifar10")
  config.method = common.method("cl_ilr")
  config.peers.kind = "branches"
  config = common.variant(config, words)
  if config.peers.net == "vgg16":
    config.peers.dropout = 0.5  # as in the code of Chen et al., AAAI 2020
  return config

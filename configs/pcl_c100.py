"""PCL on CIFAR-100, three ResNet-32 branches (Wu and Gong, AAAI 2021).

Published top-1 accuracy in %, averaged first peer, ResNet-32 74.14 +- 0.16,
ResNet-110 79.98 +- 0.55, VGG-16 76.89 +- 0.25, DenseNet-40-12 73.09 +- 0.16,
WRN-20-8 80.51 +- 0.49 (Wu and Gong, AAAI 2021, comparison table as copied in a
public reproduction of their paper). Variants: any network of okd_jax.backbones
and "replicas".

    python main.py --config=configs/pcl_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("pcl")
  config.peers.kind = "branches"
  config.peers.num_peers = 3
  if data_set == "cifar100":
    config.image_mean = (0.5071, 0.4866, 0.4409)
    config.image_std = (0.2675, 0.2565, 0.2761)
  return common.variant(config, words)

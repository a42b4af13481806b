"""PCL on CIFAR-10, three ResNet-32 branches (Wu and Gong, AAAI 2021).

Published top-1 accuracy in %, averaged first peer, ResNet-32 94.33 +- 0.12,
ResNet-110 95.53 +- 0.16, VGG-16 94.74 +- 0.02, DenseNet-40-12 94.13 +- 0.13,
WRN-20-8 95.42 +- 0.04 (Wu and Gong, AAAI 2021, comparison table as copied in a
public reproduction of their paper). Variants: any network of okd_jax.backbones
and "replicas".

    python main.py --config=configs/pcl_c10.py
"""

from configs import pcl_c100


def get_config(words: str = ""):
  return pcl_c100.get_config(words, "cifar10")

"""FFL on CIFAR-10, two ResNet-32 branches (Kim et al., ICPR 2020).

Published top-1 accuracy in %, sub-network, ResNet-32: 94.01 +- 0.11 (Wu and
Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones and "replicas"; the authors'
network of depth 110 is resnet110_basic.

    python main.py --config=configs/ffl_c10.py
"""

from configs import ffl_c100


def get_config(words: str = ""):
  return ffl_c100.get_config(words, "cifar10")

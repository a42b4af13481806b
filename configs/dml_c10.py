"""DML on CIFAR-10, four ResNet-32 networks (Zhang et al., CVPR 2018).

Published top-1 accuracy in %, mean of networks, ResNet-32: 93.94 +- 0.07 (Wu
and Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones, "branches", and "original":
pairwise, temperature 1, constant targets, one network updated after another
(Zhang et al.).

    python main.py --config=configs/dml_c10.py
"""

from configs import dml_c100


def get_config(words: str = ""):
  return dml_c100.get_config(words, "cifar10")

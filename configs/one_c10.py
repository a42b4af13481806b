"""ONE on CIFAR-10, four ResNet-32 branches (Lan et al., NeurIPS 2018).

Published top-1 accuracy in %, mean of branches, ResNet-32: 94.20 +- 0.12 (Wu
and Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones, and "original": three
branches, constant target, no Nesterov momentum, weight decay 1e-4, drops at
half and three quarters (Lan et al.).

    python main.py --config=configs/one_c10.py
"""

from configs import one_c100


def get_config(words: str = ""):
  return one_c100.get_config(words, "cifar10")

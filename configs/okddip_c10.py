"""OKDDip on CIFAR-10, four ResNet-32 (Chen et al., AAAI 2020).

Published top-1 accuracy in %, ResNet-32: 94.17 +- 0.15 (Wu and Gong, AAAI 2021,
their own runs, as copied in a public reproduction of their paper). Variants:
any network of okd_jax.backbones and "branches".

    python main.py --config=configs/okddip_c10.py
"""

from configs import okddip_c100


def get_config(words: str = ""):
  return okddip_c100.get_config(words, "cifar10")

"""OKDDip on CIFAR-100, four ResNet-32 (Chen et al., AAAI 2020).

Published top-1 error in %, branches, ResNet-32: 25.65 +- 0.15 (Chen et al.,
AAAI 2020, Table 2, as quoted in issue 1 of the authors' repository). Variants:
any network of okd_jax.backbones and "branches", for example
configs/okddip_c100.py:resnet110,branches.

    python main.py --config=configs/okddip_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("okddip")
  return common.branch_dropout(common.variant(config, words))

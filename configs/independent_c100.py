"""Independent training on CIFAR-100, four ResNet-32.

Published top-1 error in %, one network: ResNet-32 28.91, ResNet-110 23.62,
vgg16_linear 25.18, DenseNet-40-12 29.17 (re-runs in the public repository
winycg/MCL-OKD).
Variants: any network of okd_jax.backbones, and "branches" for "Ind". VGG-16 has
dropout of 0.5 in branches only, as in the code of Chen et al., AAAI 2020.

    python main.py --config=configs/independent_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("independent")
  return common.branch_dropout(common.variant(config, words))

"""All methods on CIFAR-10, ResNet-32, three seeds.

Published figures are in configs/published.json. OKDDip trains whole networks
here; --config.kinds.okddip=branches trains branches. Behind a colon come other
networks: configs/compare_c10.py:resnet32,vgg16. OEM and CTKD as in
configs/compare_c100.py.

    python -m okd_jax compare --config=configs/compare_c10.py
"""

from configs import common, comparison


def get_config(words: str = ""):
  base = common.cifar(common.base(), "cifar10")
  config = comparison.grid(base, "resnet32", "resnet110")
  return comparison.variant(config, words)

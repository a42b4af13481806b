"""OEM on Fashion-MNIST, five ResNet-20 of shrinking width.

Reproduces no published figure.

    python main.py --config=configs/oem_fashion_mnist.py
"""

from configs import common, oem_c100


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("oem")
  return oem_c100.shrinking(common.variant(config, words))

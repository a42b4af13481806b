"""MCL on Fashion-MNIST, two ResNet-20 networks.

Reproduces no published figure.

    python main.py --config=configs/mcl_fashion_mnist.py
"""

from configs import common, mcl_c100


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  mcl_c100.recipe(config)
  return common.variant(config, words)

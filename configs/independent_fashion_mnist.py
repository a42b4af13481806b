"""Independent training on Fashion-MNIST, four ResNet-20.

Reproduces no published figure.

    python main.py --config=configs/independent_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("independent")
  return common.variant(config, words)

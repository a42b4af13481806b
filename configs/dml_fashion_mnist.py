"""DML on Fashion-MNIST, four ResNet-20 networks.

Reproduces no published figure.

    python main.py --config=configs/dml_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("dml")
  return common.variant(config, words)

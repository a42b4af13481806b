"""ONE on Fashion-MNIST, four ResNet-20 branches.

Reproduces no published figure.

    python main.py --config=configs/one_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("one")
  config.peers.kind = "branches"
  return common.variant(config, words)

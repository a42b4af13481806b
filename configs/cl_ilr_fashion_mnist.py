"""CL-ILR on Fashion-MNIST, four ResNet-20 branches.

Reproduces no published figure.

    python main.py --config=configs/cl_ilr_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("cl_ilr")
  config.peers.kind = "branches"
  return common.variant(config, words)

r"""CTKD on Fashion-MNIST, WRN-16-1 with WRN-40-1.

Reproduces no published figure. Variants as in configs/ctkd_c100.py.

    python main.py --config=configs/ctkd_fashion_mnist.py \
        --config.teacher=RUN
"""

from configs import common, ctkd_c100


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.peers.net = "wrn16_1,wrn40_1"
  config.pad_mode = "symmetric"
  return ctkd_c100.preset(config, words)

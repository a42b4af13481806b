"""OEM on scikit-learn's digits, five ResNet-8 of shrinking width.

Reproduces no published figure.

    python main.py --config=configs/oem_digits.py
"""

from configs import common, oem_c100


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("oem")
  return oem_c100.shrinking(common.variant(config, words))

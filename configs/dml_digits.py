"""DML on scikit-learn's digits, four ResNet-8 networks.

Reproduces no published figure.

    python main.py --config=configs/dml_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("dml")
  return common.variant(config, words)

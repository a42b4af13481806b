"""Independent training on scikit-learn's digits.

Reproduces no published figure.

    python main.py --config=configs/independent_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("independent")
  return common.variant(config, words)

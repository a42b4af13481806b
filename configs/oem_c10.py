"""OEM on CIFAR-10, five ResNet-32 of shrinking width (ECCV 2020).

Published top-1 accuracy in % of the widest student, ResNet-32: 92.95 (Table 2;
mean of five runs, best epoch on test data). Variants as in configs/oem_c100.py.

    python main.py --config=configs/oem_c10.py
"""

from configs import oem_c100


def get_config(words: str = ""):
  return oem_c100.get_config(words, "cifar10", epochs=350)

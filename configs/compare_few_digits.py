"""All methods on 200 of scikit-learn's digits, ResNet-8, ten seeds.

Few images and many epochs. The rate is that of all recipes of these data and
was not chosen for so few images.
No published figures.

    python -m okd_jax compare --config=configs/compare_few_digits.py
"""

from configs import common, comparison


def get_config(words: str = ""):
  base = common.digits(common.base())
  base.data.train_examples = 200
  base.batch_size = 50
  base.epochs = 120
  base.eval_epochs = 10
  config = comparison.grid(base, "resnet8", "resnet20")
  config.seeds = tuple(range(10))
  return comparison.variant(config, words)

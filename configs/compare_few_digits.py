"""All methods on 200 of scikit-learn's digits, ResNet-8, ten seeds.

Few images and many epochs. Rate and weight decay are those at which one
network alone was best on held-out training images, of rates 0.02 to 0.2 and
decays 5e-4 to 5e-3 (docs/results.md); both are the largest that were tried.
No published figures.

    python -m okd_jax compare --config=configs/compare_few_digits.py
"""

from configs import common, comparison, ctkd_digits


def get_config(words: str = ""):
  base = common.digits(common.base())
  base.data.train_examples = 200
  base.batch_size = 50
  base.epochs = 120
  base.eval_epochs = 10
  base.optim.learning_rate = 0.2
  base.optim.weight_decay = 5e-3
  config = comparison.grid(base, "resnet8", "resnet20")
  config.options.ctkd.attention_weight /= ctkd_digits.SMALLER
  # 256 are more than there are images of other classes.
  config.options.mcl_okd.num_negatives = base.data.train_examples // 2
  config.seeds = tuple(range(10))
  return comparison.variant(config, words)

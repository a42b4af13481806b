"""Trains OKDDip on real digits and compares its leader with a linear model.

    python examples/demo.py

Four ResNet-8 peers teach each other on the 8x8 images that come with
scikit-learn. Logistic regression sees the same training and test images.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sklearn.linear_model import LogisticRegression

from configs import okddip_digits
from okd_jax import tasks, train
from okd_jax.cli import common as cli
from okd_jax.data.formats import publisher
from okd_jax.runs import display, records as records_lib, summary
from okd_jax.settings.freeze import freeze


def main() -> None:
  """Trains, and prints the comparison."""
  config = freeze(okddip_digits.get_config())
  cli.prepare_jax(config)
  workdir = cli.default_workdir(config, "demo")
  result = train.train(config, workdir)[1]
  summary.show_results(config, [result])

  digits = publisher.digits()
  linear = LogisticRegression(max_iter=5000).fit(
    digits.train.images.reshape(len(digits.train.labels), -1) / 255,
    digits.train.labels,
  )
  score = linear.score(
    digits.test.images.reshape(len(digits.test.labels), -1) / 255,
    digits.test.labels,
  )
  leader = result["last"]["test/leader/accuracy"]
  accuracy = tasks.load("classification").headline()
  display.table(
    "Accuracy on the test digits",
    ["model", "accuracy"],
    [
      ("group leader of OKDDip (ResNet-8)", accuracy.text(leader)),
      ("logistic regression", accuracy.text(score)),
    ],
  )
  records = [
    r for r in records_lib.read_metrics(workdir) if r["kind"] == "train"
  ]
  terms = ("peer_ce", "leader_ce", "peer_kd", "leader_kd")
  display.table(
    "Loss terms, averaged over the records of the run",
    ["term", "mean"],
    [
      (name, f"{sum(r[name] for r in records) / len(records):.4f}")
      for name in terms
    ],
  )
  print(f"Results are in {workdir}.")
  if leader <= score:
    sys.exit("The leader did not beat logistic regression.")


if __name__ == "__main__":
  with cli.exit_codes():
    main()

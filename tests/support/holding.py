"""Imported by processes that are to be met in the middle of something.

They wait in the phase that is written in the file `$HOLDS`, while that is
there; see `phases`.
"""

import contextlib
import os
from pathlib import Path
import time

import phases

from okd_jax.runs import recorder
from okd_jax.training import evaluate, runner


def _hold(phase, step=0):
  path = Path(os.environ["HOLDS"])
  with contextlib.suppress(FileNotFoundError):
    while True:
      asked, _, first = path.read_text().partition(" ")
      if asked != phase or step < int(first or 0):
        return
      phases.met(path).touch()
      time.sleep(0.01)


def _before(owner, name, phase):
  whole = getattr(owner, name)

  def held(*args, **kwargs):
    _hold(phase)
    return whole(*args, **kwargs)

  setattr(owner, name, held)


_trained = recorder.Recorder.trained


def _train(self, step, of):
  _trained(self, step, of)
  _hold("training", step)


recorder.Recorder.trained = _train
_before(runner.Runner, "run", "compiling")
_before(evaluate.Evaluator, "figures", "evaluating")

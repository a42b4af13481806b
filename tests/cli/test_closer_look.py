"""`eval --per-class` and the ensembles of the first k, against NumPy."""

import json

import jax
import numpy as np
import pytest
from sklearn import metrics

from okd_jax import __main__
from okd_jax.errors import ConfigError
from okd_jax.results import closer
from okd_jax.runs import run as run_lib
from okd_jax.settings import build
from okd_jax.tasks import keypoints


@pytest.fixture(scope="module")
def logits(trained):
  """What the peers of a run say [3, N, C], and the labels [N]."""
  run = run_lib.run(trained)
  source = build.source(run.config)
  parts = []
  for batch in source.evaluation("test"):
    images = run.setup.task.normalize(batch).image
    peers = [run.setup.peers.extract(run.peers_variables, i) for i in range(3)]
    each = [
      jax.jit(lambda v, x, net=net: net.apply(v, x, train=False).logits)(
        variables, images
      )
      for net, variables in peers
    ]
    parts.append((np.stack(each)[:, batch.mask], batch.target[batch.mask]))
  return (
    np.concatenate([each for each, _ in parts], 1),
    np.concatenate([labels for _, labels in parts]),
  )


@pytest.mark.long
def test_one_pass_shows_classes_and_the_first_k(
  trained, logits, tmp_path, capsys
):
  flags = ["--all-peers", "--per-class", "--json", f"--to={tmp_path}"]
  __main__.main(["eval", str(trained), *flags])
  found = json.loads(capsys.readouterr().out)
  logits, labels = logits
  # Of okddip the leader is the last peer and no member.
  first = found["ensemble_of_first"]
  assert list(first) == ["1", "2"]
  for k in (1, 2):
    said = logits[:k].mean(0).argmax(-1)
    assert first[str(k)]["accuracy"] == np.mean(said == labels)
  assert first["2"] == pytest.approx(
    {m: found["figures"]["ensemble"][m] for m in first["2"]}
  )
  said = logits[2].argmax(-1)
  classes = found["per_class"]
  np.testing.assert_array_equal(
    classes["confusion"], metrics.confusion_matrix(labels, said)
  )
  recall = metrics.recall_score(labels, said, average=None)
  shown = [each["recall"] for each in classes["classes"].values()]
  np.testing.assert_allclose(shown, recall)
  peers = logits.argmax(-1)
  np.testing.assert_allclose(
    classes["agreement"][0], [np.mean(peers[0] == other) for other in peers]
  )
  again = closer.read(tmp_path)
  leader = found["figures"]["leader"]
  assert again.reliability["leader"].error == pytest.approx(
    leader["calibration_error"], rel=1e-4
  )
  assert len(again.wrong) == 360 - leader["correct"]
  assert len(again.images) == min(48, len(again.wrong))


@pytest.mark.long
def test_mistakes_are_shown_with_their_images(trained, logits, tmp_path):
  __main__.main(["eval", str(trained), "--per-class", f"--to={tmp_path}"])
  found = closer.read(tmp_path)
  logits, labels = logits
  source = build.source(run_lib.run(trained).config)
  images, places = [], []
  for batch in source.evaluation("test"):
    images.append(np.asarray(batch.image)[batch.mask])
    places.append(np.asarray(batch.index)[batch.mask])
  images, places = np.concatenate(images), np.concatenate(places)
  sure = np.asarray(jax.nn.softmax(logits[2])).max(-1)
  wrong = np.flatnonzero(logits[2].argmax(-1) != labels)
  assert {each[0] for each in found.wrong} == set(places[wrong].tolist())
  assert found.wrong[0][3] == pytest.approx(sure[wrong].max(), rel=1e-4)
  for png, mistake in zip(found.images, found.wrong, strict=False):
    place = np.flatnonzero(places == mistake[0])[0]
    assert mistake[1] == labels[place]
    assert mistake[2] == logits[2][place].argmax()
    assert png == closer.thumbnail(images[place])


def test_what_has_no_classes_is_refused():
  with pytest.raises(ConfigError, match="keypoints.*leave out --per-class"):
    keypoints.Task.require_classes()


def test_a_folder_for_files_that_nobody_asked_for_is_refused(trained, tmp_path):
  with pytest.raises(SystemExit) as left:
    __main__.main(["eval", str(trained), f"--to={tmp_path / 'x'}"])
  assert left.value.code == 2 and not (tmp_path / "x").exists()

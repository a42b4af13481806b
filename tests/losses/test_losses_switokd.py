"""SwitOKD against the published vectors, in float64."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, losses

PAIRS = (
  "pair_expert",
  "pair_learning_teacher_worse",
  "pair_learning_gap_small",
)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def assert_gap(gap, expected):
  for key, name in (
    ("d_t", "d_teacher"),
    ("d_s", "d_student"),
    ("gap", "gap"),
    ("threshold", "delta"),
  ):
    golden.assert_value(gap[key], expected[name])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_pair(name, soft):
  case = golden.case("switokd", name)
  expected = case["expected"]
  labels = np.array(case["inputs"]["labels"])
  labels = np.eye(5)[labels] if soft else labels

  def pair(x):
    return x["teacher_logits"], x["student_logits"], labels

  def loss(x):
    terms = losses.switokd(
      *pair(x),
    )
    expert_mode = terms.pop("expert_mode")
    return sum(jnp.mean(term) for term in terms.values()), (terms, expert_mode)

  inputs = golden.arrays(case["inputs"], ("teacher_logits", "student_logits"))
  assert_gap(losses.switokd_gap(*pair(inputs)), expected)
  run = golden.jit_once(jax.value_and_grad(loss, has_aux=True))
  (total, (terms, expert_mode)), grads = run(inputs)
  assert expert_mode.dtype == bool and expert_mode == expected["expert_mode"]
  teacher = 0 if expert_mode else expected["loss_teacher_if_learning"]
  golden.assert_value(total, expected["loss_student"] + teacher)
  golden.assert_value(
    np.mean(terms["student_ce"] + terms["student_kd"]), expected["loss_student"]
  )
  golden.assert_value(
    np.mean(terms["teacher_ce"] + terms["teacher_kd"]), teacher
  )
  for key, grad in case["grads_after_switch"].items():
    golden.assert_grad(grads[key], grad)


ROLES = {
  "three_nets_2T1S": ((0, 2), (1, 2)),
  "three_nets_1T2S": ((0, 1), (0, 2)),
}


@pytest.mark.parametrize("name", ROLES)
def test_every_pair_of_three_networks(name):
  """A switch a pair serves groups of three as well."""
  case = golden.case("switokd", name)
  logits = np.array(case["inputs"]["logits"])
  labels = np.array(case["inputs"]["labels"])
  for (teacher, student), expected in zip(
    ROLES[name], case["expected"]["pairs"], strict=True
  ):
    pair = logits[teacher], logits[student], labels
    assert_gap(losses.switokd_gap(*pair), expected)
    assert losses.switokd(*pair)["expert_mode"] == expected["expert_mode"]


GROUPS = {
  "three_nets_2T1S": (2, [[False], [True]]),
  "three_nets_1T2S": (1, [[True, False]]),
}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", GROUPS)
def test_group(name, soft):
  case, (num_teachers, expert_mode) = golden.case("switokd", name), GROUPS[name]
  labels = np.array(case["inputs"]["labels"])
  labels = np.eye(5)[labels] if soft else labels

  def loss(logits):
    terms = losses.switokd_group(logits, labels, num_teachers=num_teachers)
    modes = terms.pop("expert_mode")
    return core.objective(terms), (sum(terms.values()), modes)

  run = golden.jit_once(jax.value_and_grad(loss, has_aux=True))
  (total, (rows, modes)), grads = run(jnp.array(case["inputs"]["logits"]))
  expected = case["expected"]
  np.testing.assert_array_equal(modes, expert_mode)
  golden.assert_value(total, expected["total_of_updated"])
  updated = np.array(expected["updated"])
  golden.assert_value(rows.mean(-1), np.where(updated, expected["losses"], 0))
  golden.assert_grad(grads, case["grads_of_total"])


@pytest.mark.parametrize("name", PAIRS)
def test_a_group_of_two_is_a_pair(name):
  inputs = golden.case("switokd", name)["inputs"]
  teacher, student = (
    np.array(inputs[f"{role}_logits"]) for role in ("teacher", "student")
  )
  labels = np.array(inputs["labels"])
  pair = golden.jit_once(losses.switokd)(teacher, student, labels)
  of_group = golden.jit_once(losses.switokd_group)
  group = of_group(np.stack([teacher, student]), labels)
  assert group["expert_mode"] == pair["expert_mode"]
  for term in ("ce", "kd"):
    for row, role in enumerate(("teacher", "student")):
      golden.assert_value(group[f"peer_{term}"][row], pair[f"{role}_{term}"])


def test_a_teacher_pauses_when_all_its_students_are_behind():
  inputs = golden.case("switokd", "pair_expert")["inputs"]
  names = ("teacher_logits", "student_logits", "student_logits")
  logits = np.array([inputs[name] for name in names])
  # The students are not the same.
  logits[2] += 0.1 * np.eye(5)[:4]
  of_group = golden.jit_once(losses.switokd_group)
  terms = of_group(logits, np.array(inputs["labels"]))
  assert terms["expert_mode"].all()
  assert not terms["peer_ce"][0].any() and not terms["peer_kd"][0].any()
  assert terms["peer_kd"][1:].all()


def test_both_right_and_sure_is_no_gap():
  logits = 1e4 * np.eye(4)
  gap = losses.switokd_gap(logits, logits, np.arange(4))
  assert gap == {"d_t": 0, "d_s": 0, "gap": 0, "threshold": 0}
  assert not losses.switokd(logits, logits, np.arange(4))["expert_mode"]


def test_switch_has_no_gradient():
  logits, labels = np.random.default_rng(0).normal(size=(2, 4, 5)), np.arange(4)
  for key in ("d_t", "d_s", "gap", "threshold"):
    grads = jax.grad(lambda z, k=key: losses.switokd_gap(*z, labels)[k])(logits)
    assert not grads.any()


@pytest.mark.parametrize(
  ("teacher", "student"),
  [
    # A teacher that is right: the gap is d_s, and so is the threshold.
    ([0.0, -np.inf, -np.inf], [0.0, 0.0, -np.inf]),
    # As good as the student: d_t = d_s = gap = 1, and 0.39 is the threshold.
    ([0.0, 0.0, -np.inf], [0.0, -np.inf, 0.0]),
  ],
)
def test_equal_numbers_make_no_expert(teacher, student):
  terms = losses.switokd(
    np.array([teacher]), np.array([student]), np.array([0])
  )
  assert not terms["expert_mode"]


def test_a_count_of_teachers_may_be_numpys():
  logits, labels = np.zeros((3, 4, 5)), np.arange(4)
  one, same = (
    jax.eval_shape(
      lambda n=n: losses.switokd_group(logits, labels, num_teachers=n)
    )
    for n in (1, np.int64(1))
  )
  assert one == same


@pytest.mark.parametrize("num_teachers", [0, 3, 1.0, True])
def test_a_group_without_teacher_or_student_is_refused(num_teachers):
  with pytest.raises(ValueError, match="num_teachers must be at least 1 and b"):
    losses.switokd_group(
      np.zeros((3, 4, 5)), np.arange(4), num_teachers=num_teachers
    )


@pytest.mark.parametrize("function", [losses.switokd, losses.switokd_gap])
def test_wrong_input_is_refused(function):
  logits = np.zeros((4, 5))
  for arguments in (
    (logits, logits[:, :3], np.arange(4)),
    (logits[None], logits[None], np.arange(4)),
    (logits, logits, np.arange(3)),
    (logits, logits, np.zeros((4, 3))),
  ):
    with pytest.raises((AssertionError, ValueError)):
      function(*arguments)

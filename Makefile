# make demo, make test: all that a fresh machine with Python and make needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What another version of Python has to pass in any case.
SMOKE := tests/losses/test_losses_okddip.py tests/training/test_optim.py \
	tests/groups/test_group.py tests/devices/test_mesh.py tests/test_train.py \
	tests/groups/test_foreign.py::test_other_axes_and_fields_of_arrays_are_allowed

.PHONY: demo docs test test-long test-slow check smoke tpu matrix clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=10

# The rest of what must hold before a change lands: whole programs, processes
# that are killed, servers, and checks of seconds of which `make test` runs one
# kind.
test-long: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=10 \
		-m "long and not slow and not network" $(TESTS)

# What both leave out because it takes hours; `make test-slow
# TESTS=tests/devices` runs a part.
test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=10 \
		-m "slow and not tpu" $(TESTS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy okd_jax benchmarks configs examples main.py

smoke: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile $(SMOKE)

# Compiles every method for TPUs, without one; MARK="tpu and slow" does the
# networks of papers.
MARK ?= tpu and not slow
tpu: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet 'jax[tpu]'
	$(BIN)/python -m pytest -n 2 -m "$(MARK)" tests/devices/test_tpu.py

# Every method on every network, in both kinds, on every mesh.
matrix: $(VENV)/.installed
	PYTHONPATH=tests/support $(BIN)/python tests/matrix.py

# Holds everything that training and tests need.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[dev]'
	touch $@

# The pages of docs/, into site/; warnings are errors.
docs: $(VENV)-docs/.installed
	$(VENV)-docs/bin/mkdocs build --strict

$(VENV)-docs/.installed: requirements-docs.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet -r requirements-docs.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs site build *.egg-info

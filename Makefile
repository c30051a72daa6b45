# Every target is a few plain commands; CONTRIBUTING.md lists them for people without make.
# A recipe stops at its first failing command; make then exits non-zero and says which it was.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV ?= .venv
PY := $(VENV)/bin/python
# The environment is checked, made or repaired before anything else (quick when all is well).
INSTALL ?= bash scripts/install.sh $(VENV)
SITE := _build/html
JOBS ?= 2
# Two processes on two cores: one thread each.
PARALLEL := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS)

.PHONY: help install book site test lint test-unit test-notebooks test-gates test-grading test-lessons \
  test-site notebooks assignments course grade checkpoints results repository release clean

help: ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

install: ## make or repair .venv with the pinned requirements and the package (editable)
	@$(INSTALL)

book: install site ## build the website into _build/html and print the file to open
	@echo "open $(abspath $(SITE))/index.html"

site: install
	@if ! command -v npm >/dev/null; then echo "npm is not installed"; \
	elif [ package-lock.json -nt node_modules/.package-lock.json ]; then \
	  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error; fi
	$(PY) scripts/vendor.py
	$(PY) scripts/demo.py
	rm -rf _build
	$(dir $(PY))jupyter-book build . --all -n -W --keep-going
	$(PY) scripts/check_links.py $(SITE)

test: lint test-unit test-notebooks test-gates test-grading test-lessons test-site ## run everything that CI runs
	@echo "make test: all steps passed"

lint: install ## ruff: lint and format, the notebooks' sources too
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test-unit: install ## the package's tests
	$(PARALLEL) tests/unit

test-notebooks: install ## the lessons' rules, the pipeline, the repository's address; nothing is executed
	$(PARALLEL) tests/notebooks --ignore-glob 'tests/notebooks/test_colab*'

test-gates: install ## planted faults: every step must turn red on its own kind
	$(PARALLEL) tests/gates

test-grading: install ## a class with hostile submissions, and every assignment's solution and release
	$(PARALLEL) tests/grading

# Lessons that measure times run alone; pytest's 5 says that no lesson does.
test-lessons: install ## nbval on every lesson, each as Colab would run it
	$(PARALLEL) $(wildcard tests/notebooks/test_colab*.py) -m "not alone" --durations 0 --durations-min 1
	$(PY) -m pytest tests/notebooks/test_colab.py -m alone --durations 0 --durations-min 1 || [ $$? -eq 5 ]

test-site: site ## the built website: links, and its pages in Chromium
	$(PY) -m pytest tests/site

notebooks: install ## write each lesson's notebook from its source; executes only what changed
	$(PY) scripts/notebooks.py

assignments: install ## write the assignments' notebooks, for instructors and for students
	$(PY) scripts/assignments.py

course: install ## make course SEED=a-secret-number: assignments of your own in assignments/course/
	@$(PY) scripts/assignments.py --course '$(SEED)'

checkpoints: install ## train the networks that are missing (hours)
	$(PY) scripts/train_checkpoints.py

results: install ## list the missing runs with their minutes; the runs themselves: see CONTRIBUTING.md
	$(PY) scripts/screen_recipes.py --list
	$(PY) scripts/train_checkpoints.py --list
	$(PY) scripts/screen_pruning.py --list
	$(PY) scripts/sweep_pruning.py --list
	$(PY) scripts/sweep_sparsity.py --list
	$(PY) scripts/screen_distillation.py --list
	$(PY) scripts/sweep_distillation.py --list
	$(PY) scripts/sweep_lowrank.py --list
	$(PY) scripts/screen_quantization.py --list
	$(PY) scripts/sweep_quantization.py --list
	$(PY) scripts/sweep_compression.py --list
	$(PY) scripts/sweep_recipe.py --list
	@for file in latency {pruning,lowrank,quantization,results}-latency runtimes; do \
	  [ -f results/$$file.json ] || echo "$$file.json is missing: see scripts/measure_*.py"; done

grade: install ## make grade ASSIGNMENT=pruning SUBMISSIONS=folder-or.zip [COURSE= OUT= PATTERN=]
	@$(PY) scripts/grade.py '$(ASSIGNMENT)' '$(SUBMISSIONS)' $(if $(COURSE),--course '$(COURSE)') \
	  $(if $(OUT),--out '$(OUT)') $(if $(PATTERN),--pattern '$(PATTERN)')

repository: install ## make repository URL=https://github.com/OWNER/NAME: set the address everywhere
	@$(PY) scripts/repository.py $(if $(URL),'$(URL)')

release: install ## make release VERSION=1.2.3: check, tag and say what to push
	@$(PY) scripts/release.py $(if $(VERSION),'$(VERSION)','') $(if $(SKIP_TESTS),--skip-tests)

clean: ## remove what was built and cached; .venv and the training runs stay
	rm -rf _build build dist node_modules book/_static/vendor book/_static/networks htmlcov .coverage
	rm -rf .pytest_cache .ruff_cache .hypothesis utils/slimcnn.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	find chapters -name .ipynb_checkpoints -prune -exec rm -rf {} +

# make demo   a Label Studio with a project of planetary scenes, connected to Skylight
# make test   lint, documentation and tests
# make unit   the tests alone
# make docs   the documentation as a site, in build/docs; a dead link fails
# make reference  the pages of docs/ that are made from the code
# make lint   format, types, layers of imports, security, and the files of docker/
# make audit  known holes in the packages, and bad habits in the code
# make e2e    the whole loop on a real Label Studio, with a simulated annotator
# make pictures  the pictures of README.md and docs/, made from the demo in Chromium
# make torture  faults on purpose, and what is lost (PARTS="bursts kills" for some)
# make scale  what more workers bring, what a team of fifty would wait for, and pictures of 20,000 px
# make bench  timings, beside those of other programs, in one table (PARTS="clicks codecs" for some)

PYTHON ?= python3
VENV := .venv
LABEL_STUDIO_VENV := .venv-label-studio
MOTO_VENV := .venv-moto
LABEL_STUDIO := $(LABEL_STUDIO_VENV)/bin/label-studio
PORT ?= 8080
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=  # what is compiled is kept: tests start many processes, which would all compile it

.PHONY: demo test unit lint docs reference audit e2e pictures bench scale torture clean

demo: $(VENV)/.installed $(LABEL_STUDIO_VENV)/.installed
	SKYLIGHT_HOME=$${SKYLIGHT_HOME:-$(CURDIR)/build/demo} $(VENV)/bin/skylight demo --label-studio $(LABEL_STUDIO) --port $(PORT)

test: $(VENV)/.installed-dev $(MOTO_VENV)/.installed
	@$(MAKE) --no-print-directory --jobs 3 lint docs unit

unit: $(VENV)/.installed-dev $(MOTO_VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	mkdir -p build/types/skylight
	ln -sfn ../../../backend build/types/skylight/backend
	ln -sfn ../../../model build/types/skylight/model
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/bandit -q -c pyproject.toml -r backend model
	$(VENV)/bin/hadolint docker/Dockerfile
	sed 's/=$$/=0123456789abcdef0123/' docker/.env.example > build/compose.env
	$(VENV)/bin/docker-compose --env-file build/compose.env -f docker/compose.yaml config -q
	$(VENV)/bin/docker-compose --env-file build/compose.env -f docker/compose.yaml -f docker/compose.gpu.yaml config -q

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

reference: $(VENV)/.installed-dev
	$(VENV)/bin/python docs/reference.py

audit: $(VENV)/.installed-dev
	$(VENV)/bin/bandit -q -c pyproject.toml -r backend model
	$(VENV)/bin/pip-audit --strict --local --skip-editable

e2e: $(VENV)/.installed-dev $(LABEL_STUDIO_VENV)/.installed
	$(VENV)/bin/python -m pytest tests/e2e -s --label-studio $(LABEL_STUDIO)

pictures: $(VENV)/.installed-dev $(LABEL_STUDIO_VENV)/.installed
	$(VENV)/bin/python -m docs.pictures.make_pictures --label-studio $(LABEL_STUDIO)

bench: $(VENV)/.installed-dev
	$(VENV)/bin/python -W ignore -m tests.bench $(PARTS)

scale: $(VENV)/.installed-dev
	$(VENV)/bin/python -W ignore -m tests.scale

torture: $(VENV)/.installed-dev $(MOTO_VENV)/.installed
	$(VENV)/bin/python -W ignore -m tests.torture $(PARTS)

clean:
	rm -rf $(VENV) $(LABEL_STUDIO_VENV) $(MOTO_VENV) build

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Skylight needs Python 3.11 or newer; set PYTHON=")'
	@echo "* Installing Skylight into $(VENV): PyTorch is large, this takes some minutes"
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --progress-bar on -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "* Installing what the tests need"
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

$(LABEL_STUDIO_VENV)/.installed:
	@echo "* Installing Label Studio 1.23.2 into $(LABEL_STUDIO_VENV): some two minutes"
	test -x $(LABEL_STUDIO_VENV)/bin/python || $(PYTHON) -m venv $(LABEL_STUDIO_VENV)
	$(LABEL_STUDIO_VENV)/bin/pip install --progress-bar on -q label-studio==1.23.2
	@touch $@

$(MOTO_VENV)/.installed:
	@echo "* Installing moto's S3 server into $(MOTO_VENV): some half a minute"
	test -x $(MOTO_VENV)/bin/python || $(PYTHON) -m venv $(MOTO_VENV)
	$(MOTO_VENV)/bin/pip install -q 'moto[server,s3]==5.2.5'
	@touch $@

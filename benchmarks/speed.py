"""qcam and its peers in the same run: what a deployed CAM costs beside bare inference, and beside what others do.

    python benchmarks/speed.py [--model resnet50]... [--tail-model vgg16] [--trained-weights resnet50=FILE]... [--repeat 7]
        [--peers PYTHON|none] [--json FILE]

Two processes, qcam's and the peers' (each in its own environment), take turns on the same photographs, decoded and normalised
beforehand; only one of them computes at a time. Every task has a turn in each round, and every other round runs backwards, so
that neighbours in the table are neighbours in time both ways. The first round warms up and is dropped. A turn is a median of
calls; before each, everything rests for a moment: the threads of ONNX Runtime and OpenMP go on spinning for a while after
their work is done, and would take the cores from whoever comes next. Inside a turn it is as users get it: qcam's commands let
the threads of its sessions and of OpenMP rest when idle, bare sessions and peers have their own defaults.

Figures are times an image: medians of the rounds, with their extremes; ratios are of medians, with the extremes of the ratios
inside one round. Weights are seeded by default: they change no time but that of AVX2's arithmetic, of which sums saturate;
that is timed on trained weights, which are given file by file. Bundles stay in build/speed, and are exported anew when the code
or the packages that made them changed. What a peer cannot do stays in the table, with the reason, and so does a bar that was
not run.
"""

from __future__ import annotations

import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from peers import environment
from peers.figures import Measured, Times, Verdict, bars_table, judge, table, to_json
from peers.protocol import Worker, WorkerError
from peers.tasks import AVX2, OF_TRAINED, TAIL, TRAINED, WHOLE, bars_of

import qcam
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically

#: Where bundles and the workers' logs are kept.
FOLDER = Path("build/speed")
#: Rest before each turn.
REST_SECONDS = 0.2
#: Trained weights that come with a package, model → what qcam-export calls them here.
INSTALLED = {"efficientnet_lite0": "default"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--model", "models", multiple=True, default=("resnet50", "mobilenet_v2", "efficientnet_b0"), show_default=True,
    help="Any model that qcam-export takes; the peers know torchvision's. The first one is checked, too.",
)  # fmt: skip
@click.option("--tail-model", default="vgg16", show_default=True, help="Bare runs, CAMs and mirrors only; none for none.")
@click.option(
    "--trained-weights", multiple=True, metavar="MODEL=WEIGHTS",
    help=f"Trained weights, as --weights of qcam-export, for AVX2's arithmetic; bars are of {', '.join(OF_TRAINED)}. Those of "
    "efficientnet_lite0 are installed.",
)  # fmt: skip
@click.option("--weights", default="random:0", show_default=True, help="As for qcam-export; default: the model's own.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1, 20), help="Images at a time.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of ONNX Runtime and PyTorch.")
@click.option("--repeat", default=7, show_default=True, type=click.IntRange(1), help="Rounds.")
@click.option(
    "--peers", default=str(environment.PYTHON), show_default=True, metavar="PYTHON|none",
    help="Python of the peers' environment; the default one is made if it is not there.",
)  # fmt: skip
@click.option("--skip-slow", is_flag=True, help="Leave out onnx.reference, the checks and the comparisons of layers.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all times there too.")
def main(
    models: tuple[str, ...],
    tail_model: str,
    trained_weights: tuple[str, ...],
    weights: str,
    batch_size: int,
    threads: int,
    repeat: int,
    peers: str,
    skip_slow: bool,
    json_path: Path | None,
) -> None:
    """Time qcam and its peers in turns, in ms an image, and hold the ratios against the bars."""
    pythons = {"qcam": Path(sys.executable)}
    if peers != "none":
        if peers == str(environment.PYTHON):
            environment.make(lambda words: click.echo(words, err=True))
        elif not Path(peers).exists():
            raise click.UsageError(f"--peers {peers} does not exist; give a Python, or none")
        pythons["peers"] = Path(peers)
    trained = INSTALLED | _trained(trained_weights)
    settings = {"batch_size": batch_size, "threads": threads, "repeat": repeat, "skip_slow": skip_slow}
    record: dict[str, Any] = settings | {"weights": weights, "machine": machine.describe(), "versions": {}, "models": {}}
    plan = [(model, WHOLE, weights) for model in models]
    if tail_model not in ("none", *models):
        plan.append((tail_model, TAIL, weights))
    plan += [(model, TRAINED, given) for model, given in trained.items()]
    verdicts: list[tuple[str, Verdict]] = []
    for model, kind, given in plan:
        name = f"{model}, trained" if kind == TRAINED else model
        check = kind == WHOLE and model == models[0] and not skip_slow
        own = {"weights": given, "kind": kind, "check": check}
        needed = {"qcam": pythons["qcam"]} if kind == TRAINED else pythons
        times = _Run(model, needed, settings | own).times(record["versions"])
        click.echo(f"\n{model} ({given}), batch {batch_size}, {threads} threads, {repeat} rounds; ms an image")
        click.echo("\n".join(table(times)))
        judged = [judge(bar, times) for bar in bars_of(model, {kind, TAIL} if model == tail_model else {kind})]
        verdicts += [(name, verdict) for verdict in judged]
        record["models"][name] = {"tasks": to_json(times), "bars": [verdict.to_json() for verdict in judged]}
        if json_path is not None:  # what there is, should the next model fail
            write_atomically(json_path, readable_json(record))
    for model in OF_TRAINED:
        if model not in trained:
            missing = {AVX2: Measured(cannot=f"no trained weights were given (--trained-weights {model}=FILE)")}
            judged = [judge(bar, missing) for bar in bars_of(model, {TRAINED})]
            verdicts += [(f"{model}, trained", verdict) for verdict in judged]
            record["models"][f"{model}, trained"] = {
                "tasks": to_json(missing), "bars": [verdict.to_json() for verdict in judged],
            }  # fmt: skip
    if json_path is not None:
        write_atomically(json_path, readable_json(record))
    click.echo("\nbars: ratios of medians, with the extremes of the rounds' own")
    click.echo("\n".join(bars_table(verdicts)))


def _trained(given: tuple[str, ...]) -> dict[str, str]:
    """Return model → trained weights.

    Raises:
        click.UsageError: If one says no weights, says random ones, or a model is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        model, _, weights = text.partition("=")
        if not model or not weights or weights.startswith("random:"):
            raise click.UsageError(
                f"--trained-weights {text}: give MODEL=WEIGHTS, trained ones, as resnet50=resnet50.safetensors"
            )
        if model in found:
            raise click.UsageError(f"--trained-weights {text}: {model} has {found[model]} already; give each model once")
        found[model] = weights
    return found


class _Run:
    """One model in both environments, each in a process of its own."""

    def __init__(self, model: str, pythons: dict[str, Path], settings: dict[str, Any]) -> None:
        self._model, self._pythons, self._repeat = model, pythons, settings["repeat"]
        self._stem = FOLDER / re.sub(r"[^\w.-]", "-", f"{model}-{Path(settings['weights']).name}")
        files = {"bundle": self._stem, "images": f"{self._stem}.npy", "state": f"{self._stem}.pt"}
        self._settings = settings | {"model": model} | {key: str(path) for key, path in files.items()}

    def times(self, versions: dict[str, dict[str, str]]) -> Times:
        """Time every task, round by round.

        Args:
            versions: Where the environments' packages are told, environment → package → version.

        Raises:
            click.ClickException: If qcam's own side cannot start.
        """
        times: Times = {}
        turns: list[tuple[Worker, str]] = []
        with ExitStack() as stack:
            for name, python in self._pythons.items():  # qcam's first: the others read the bundle that it exports
                self._tell(f"preparing {name}")
                log = Path(f"{self._stem}.{name}.log")
                more: dict[str, str] = {}
                folders: list[Path] = []
                if name == "qcam":  # of this very checkout, whichever is installed; and as qcam's commands set it
                    more, folders = {"OMP_WAIT_POLICY": "PASSIVE"}, [Path(qcam.__file__).parents[1]]
                worker = Worker(python, f"peers.{name}_worker", self._settings["threads"], log, more, folders)
                stack.callback(worker.close)
                try:
                    reply = worker.ask({"prepare": self._settings})
                except WorkerError as error:
                    if name == "qcam":
                        raise click.ClickException(str(error)) from error
                    times[name] = Measured(cannot=str(error))
                    continue
                versions[name] = reply["versions"]
                for task, facts in reply["tasks"].items():
                    times[task] = Measured(facts["batch"])
                    turns.append((worker, task))
            for round_ in range(self._repeat + 1):
                self._tell(f"round {round_} of {self._repeat}" if round_ else "warming up")
                for worker, task in turns[:: -1 if round_ % 2 else 1]:
                    if not times[task].cannot:
                        self._turn(worker, task, times[task], counts=round_ > 0)
        return times

    def _turn(self, worker: Worker, task: str, measured: Measured, *, counts: bool) -> None:
        time.sleep(REST_SECONDS)
        try:
            reply = worker.ask({"run": task})
        except WorkerError as error:
            measured.cannot = str(error)
            self._tell(f"{task}: {error}")
            return
        if counts:
            measured.seconds.append(reply["seconds"])
            measured.calls.append(reply["calls"])
            measured.told = reply["told"]

    def _tell(self, words: str) -> None:
        click.echo(f"{self._model}: {words}", err=True)


if __name__ == "__main__":
    main()

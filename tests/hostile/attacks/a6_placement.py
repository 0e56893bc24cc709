"""A6: the same command twice: the same placement.json, byte for byte."""

from __future__ import annotations

from functools import partial

from hostile.harness import Attack, Scene, Verdict, fell, held


def _twice(scene: Scene, *, network: str) -> Verdict:
    """Evaluate twice, each time in a process of its own."""
    if network:
        words = (
            "--weights",
            "random:0",
            "--precision",
            "f32",
            "--precision",
            "int8",
            "--calibration",
            scene.ground.photographs,
        )
        outcome = scene.run("qcam-export", network, *words, "--calibration-limit", 1, "--output", scene.work)
        if outcome.code != 0:
            return fell(f"the attack itself failed: exit {outcome.code}")
    bundle = scene.work / network if network else scene.ground.bundle
    found = []
    for name in ("one", "two", "three"):
        done = scene.ground.eval(bundle, "--images", scene.ground.photographs, "--limit", 1, output=scene.work / name)
        if done.code != 0:
            return fell(done.fault() or f"exit {done.code}")
        found.append((scene.work / name / "placement.json").read_bytes())
    return held("equal byte for byte") if len(set(found)) == 1 else fell("placement.json differs")


_RUNS = [
    ("placement.json of the tests' tiny network", partial(_twice, network="")),
    ("placement.json of squeezenet1_1", partial(_twice, network="squeezenet1_1")),
    ("placement.json of mobilenet_v2", partial(_twice, network="mobilenet_v2")),
]
ATTACKS = [Attack(f"A6.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]

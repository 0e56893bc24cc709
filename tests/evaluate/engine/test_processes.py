"""Several processes on this machine end like one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import children, command, finish, hear_ctrl_c, wait_for_parts

from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.evaluate.engine import dispatcher as dispatching
from qcam.evaluate.engine.choice import EngineOptions, settle
from qcam.evaluate.engine.dispatcher import Dispatcher
from qcam.evaluate.engine.messages import Opening
from qcam.evaluate.engine.processes import ProcessPool
from qcam.evaluate.engine.requirements import check_requirements
from qcam.evaluate.engine.worker import SaliencyRequest, WorkerSpec
from qcam.evaluate.results.folder import RESULTS
from qcam.evaluate.run.options import StudyOptions


@pytest.mark.long
def test_two_processes_end_like_one(tiny_bundle, many, tmp_path, same_as):
    done = finish(command(tiny_bundle.folder, many, "out", "--workers", 2), tmp_path)
    assert done.returncode == 0, done.stderr
    same_as(tmp_path / "out")
    workers = json.loads((tmp_path / "out" / "run.json").read_text())["workers"]
    assert sum(worker["shards"] for worker in workers) == 12
    assert "quarantined" not in done.stderr


@pytest.mark.slow
def test_a_script_needs_no_guard(tiny_bundle, many, tmp_path):
    """Workers are started without running the script that starts them anew."""
    (tmp_path / "script.py").write_text(
        "import qcam\n"
        "print('once')\n"
        f"results = qcam.study({str(tiny_bundle.folder)!r}, images={str(many)!r}, limit=48, saliency='none', workers=2,\n"
        "    threads=1, output='out', fake_quant=False, references='none', report=False)\n"
        "print(type(results).__name__)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, ["once", "StudyResults"]), done.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["complete"] is True


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_ends_the_same(tiny_bundle, many, tmp_path, same_as):
    process = subprocess.Popen(
        command(tiny_bundle.folder, many, "out", "--workers", 2), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_for_parts(tmp_path / "out")
    workers = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "a worker was lost, its shards are tried again: ended by SIGKILL" in " ".join(err.split())
    same_as(tmp_path / "out")


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_process_and_goes_on(tiny_bundle, many, tmp_path, same_as):
    line = command(tiny_bundle.folder, many, "out", "--workers", 2)
    process = subprocess.Popen(
        line, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    )
    wait_for_parts(tmp_path / "out")
    started = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the workers as well
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "The same command goes on from there" in " ".join(err.split())
    assert "Traceback" not in err
    until = time.monotonic() + 30  # Python's own helper process goes a moment after the last one
    while [pid for pid in started if Path(f"/proc/{pid}").exists()] and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["complete"] is False
    again = finish(line, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "shards are done already; going on" in again.stderr
    same_as(tmp_path / "out")


@pytest.mark.long
def test_one_process_goes_on_where_several_stopped(tiny_bundle, many, tmp_path, same_as):
    """A plan of workers leaves the processor to each part: whoever goes on takes the parts that are there."""
    done = finish(command(tiny_bundle.folder, many, "out", "--workers", 2), tmp_path)
    assert done.returncode == 0, done.stderr
    again = finish(command(tiny_bundle.folder, many, "out", "--workers", 1), tmp_path)
    assert again.returncode == 0, again.stderr
    assert "already holds the complete results of this very run; --force computes them again" in again.stderr
    same_as(tmp_path / "out")


def test_requirements_are_checked_in_every_engine(tiny_bundle, many, tmp_path):
    lacking = next(name for name in machine.KERNEL_FEATURES if name not in machine.cpu_features())
    for workers in (1, 2):
        line = command(tiny_bundle.folder, many, "out", "--workers", workers, "--limit", 8, "--require", f"feature={lacking}")
        refused = finish(line, tmp_path)
        assert refused.returncode == 2
        assert f"lacks {lacking}, and --require feature={lacking} wants it" in " ".join(refused.stderr.split())
        assert not (tmp_path / "out").exists()
    refused = finish(command(tiny_bundle.folder, many, "out", "--require", "kernel=sse"), tmp_path)
    assert refused.returncode == 2
    assert "choose one of vnni, avx2, arm64" in " ".join(refused.stderr.split())
    with pytest.raises(QcamError, match="disk is unknown; choose kernel or"):
        check_requirements([("disk", "big")])
    with pytest.raises(QcamError, match="choose one of sse4_1, avx"):
        check_requirements([("feature", "avx1024")])


def test_a_changed_image_is_named_and_the_rest_is_kept(tiny_bundle, many, tmp_path):
    """What fails in every worker fails in the end, by name; all other shards are there."""
    folder = tmp_path / "photographs"
    shutil.copytree(many, folder)
    line = command(tiny_bundle.folder, folder, "out", "--workers", 2)
    code = (
        "import sys; from pathlib import Path; import qcam.evaluate.study.plan as study\n"
        "real = study.fingerprint_images\n"
        "def changing(images):\n"
        "    found = real(images)\n"
        f"    Path({str(folder / '100.jpg')!r}).write_bytes(Path({str(folder / '101.jpg')!r}).read_bytes())\n"
        "    return found\n"
        "study.fingerprint_images = changing\n"
        "from qcam.commands.eval import main\n"
        "if __name__ == '__main__': main()\n"
    )
    (tmp_path / "driver.py").write_text(code)
    done = finish([line[0], "driver.py", *line[3:]], tmp_path)
    assert done.returncode == 2
    text = " ".join(done.stderr.split())
    assert "quarantined after 3 failures: shard 6 (096.jpg … 111.jpg)" in text
    assert "100.jpg changed while the run was going on" in text
    assert "1 of 12 shards failed again and again" in text
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["complete"] is False
    assert sum(worker["shards"] for worker in run["workers"]) == 11


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_replaced(tiny_bundle, many, tmp_path, same_as):
    line = command(tiny_bundle.folder, many, "out", "--workers", 2, "--patience", 20)
    process = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_parts(tmp_path / "out")
    workers = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGSTOP)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    text = " ".join(err.split())
    assert "no word from a worker for 20 s; it is ended" in text
    assert "a worker was lost, its shards are tried again: ended by SIGKILL" in text
    same_as(tmp_path / "out")


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_the_run_goes_on(tiny_bundle, many, tmp_path, same_as):
    line = command(tiny_bundle.folder, many, "out", "--workers", 2)
    for wanted in (1, 6):
        process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_parts(tmp_path / "out", wanted)
        started = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        until = time.monotonic() + 60
        while [pid for pid in started if Path(f"/proc/{pid}").exists()] and time.monotonic() < until:
            time.sleep(0.05)
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    again = finish(line, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "shards are done already; going on" in again.stderr
    same_as(tmp_path / "out")


@pytest.mark.parametrize("kind", [pytest.param("tar", marks=pytest.mark.long), "parquet"])
def test_archives_are_shared_by_workers(tiny_bundle, many, whole, tmp_path, kind):
    """Each image is read by offset, or from its row group, in whatever process; figures are those of loose files."""
    files = sorted(many.iterdir())[:40]
    (tmp_path / "archives").mkdir()
    for number in range(2):
        chosen = files[20 * number : 20 * (number + 1)]
        if kind == "tar":
            with tarfile.open(tmp_path / "archives" / f"{number}.tar", "w") as archive:
                for file in chosen:
                    archive.add(file, file.name)
        else:
            rows = [{"image": {"bytes": file.read_bytes(), "path": file.name}} for file in chosen]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "archives" / f"{number}.parquet", row_group_size=7)
    done = finish(command(tiny_bundle.folder, "archives", "out", "--workers", 2), tmp_path)
    assert done.returncode == 0, done.stderr
    found = [{**row, "image": row["image"].rpartition("/")[2]} for row in pq.read_table(tmp_path / "out" / RESULTS).to_pylist()]
    names = {file.name for file in files}
    assert found == [row for row in pq.read_table(whole / RESULTS).to_pylist() if row["image"] in names]


def test_the_number_of_threads_does_not_follow_the_memory(tiny_bundle, monkeypatch):
    """Threads are part of the plan: the same command has to go on when there is less memory than before."""
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    for memory, workers in ((1 << 40, 8), (2 << 30, 2), (0, 1)):
        monkeypatch.setattr(machine, "available_memory", lambda memory=memory: memory)
        settled, threads = settle(EngineOptions(), None, 1000, [tiny_bundle], StudyOptions(()), on_cpu=True)
        assert (settled.workers, threads) == (workers, 1)
    assert settle(EngineOptions(), None, 20, [tiny_bundle], StudyOptions(()), on_cpu=True)[1] == 8
    assert settle(EngineOptions(), None, 1000, [tiny_bundle], StudyOptions(()), on_cpu=False)[0].workers == 1
    assert settle(EngineOptions(workers=4), None, 1000, [tiny_bundle], StudyOptions(()), on_cpu=True)[1] == 2
    with pytest.raises(QcamError, match="a whole number, or a part of one"):
        settle(EngineOptions("ray", gpus=1.5), None, 1000, [tiny_bundle], StudyOptions(()), on_cpu=False)


#: The first worker that writes shard 7 writes a SIM of 2 into it, under a right checksum.
LYING = """
from dataclasses import replace
from pathlib import Path
import qcam.evaluate.engine.worker as worker

real, marker = worker.write_part, Path({marker!r})

def lying(store, part, outcomes, *given):
    if part.index == 7:
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return real(store, part, outcomes, *given)
        last = outcomes[-1]
        outcomes = [*outcomes[:-1], replace(last, rows=[replace(last.rows[0], SIM=2.0), *last.rows[1:]])]
    return real(store, part, outcomes, *given)

worker.write_part = lying

def serve(*arguments):
    from qcam.evaluate.engine import processes

    processes._serve(*arguments)
"""

#: Workers do not run the driver anew: what they are to do otherwise comes from a module that they import.
DRIVER = """
import liar
from qcam.commands.eval import main
from qcam.evaluate.engine import processes

if __name__ == "__main__":
    processes._serve = liar.serve
    main()
"""


def test_a_part_of_impossible_figures_is_made_again_by_another_process(tiny_bundle, many, tmp_path, same_as):
    (tmp_path / "liar.py").write_text(LYING.format(marker=str(tmp_path / "marker")))
    (tmp_path / "driver.py").write_text(DRIVER)
    line = command(tiny_bundle.folder, many, "out", "--workers", 2)
    done = finish([line[0], "driver.py", *line[3:]], tmp_path)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "the part of shard 7 (112.jpg … 127.jpg) holds SIM 2 in rows, which is 0 to 1; the worker on" in told
    assert "that handed it in is ended" in told
    same_as(tmp_path / "out")


def test_a_process_that_hangs_while_it_opens_a_bundle_is_ended_with_the_bundle_named(tmp_path, monkeypatch):
    bundle = tmp_path / "hanging"
    bundle.mkdir()
    os.mkfifo(bundle / "bundle.json")  # whoever opens it waits for somebody who writes
    spec = WorkerSpec((bundle,), {}, StudyOptions(()), SaliencyRequest("none"), None, "cpu", "cpu")
    pool = ProcessPool(spec, None, 1)  # type: ignore[arg-type]
    crew = Dispatcher(pool)
    try:
        heard = []
        while not heard:
            heard = pool.poll(60.0)
        ((name, message),) = heard
        assert isinstance(message, Opening)
        crew._admit(name, message)
        monkeypatch.setattr(dispatching, "OPENING", 1.0)
        with pytest.raises(QcamError, match="workers hang while they open their sessions: no word for 1 s from a worker on"):
            crew.open()
        assert f"that opens {bundle}; it is ended" in crew.trouble[0]
    finally:
        pool.close()

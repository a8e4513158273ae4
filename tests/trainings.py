"""What the tests of small trainings share."""

import os
import subprocess
import sys

from helpers import PROJECT_ROOT


class Killed(BaseException):
    pass


def losses(log):
    """Step to loss, of the rows of training/log.jsonl."""
    return {row["step"]: row["loss"] for row in log if "loss" in row}


def killed_at(step):
    """Watches a training, and kills it as this step is logged."""

    def watch(log):
        if step in losses(log):
            raise Killed

    return watch


def by_two_processes(script, run):
    """The standard output of one of the project's scripts for several GPUs, run by two processes on this CPU."""
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    done = subprocess.run(
        [*together, "--run-dir", str(run.path)],
        cwd=PROJECT_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

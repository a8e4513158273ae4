"""What the tests of small trainings share."""

# Of python: train.py as `accelerate launch` starts it, in two processes on this CPU.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
          "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "train.py"]  # fmt: skip


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

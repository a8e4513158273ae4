"""What the tests of small trainings share."""


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

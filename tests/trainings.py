"""What the tests of small trainings share."""


class Killed(BaseException):
    pass


def losses(log):
    """Step to loss, of the rows of training/log.jsonl."""
    return {row["step"]: row["loss"] for row in log if "loss" in row}

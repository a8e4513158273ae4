"""Who is told to stop; tests/series/test_kills.py and tests/lora_training/test_train.py stop for real."""

import os

from helpers.run_dir.stopping import TRAINING, tell_training_to_stop, training_in


def test_no_other_process_is_told_to_stop_than_the_one_that_trains(tmp_path):
    assert not tell_training_to_stop(tmp_path)
    with training_in(tmp_path):
        assert (tmp_path / TRAINING).read_text() == str(os.getpid())
    for named in (str(os.getppid()), "", "x"):  # a killed one's number, which is another's now
        (tmp_path / TRAINING).write_text(named)
        assert not tell_training_to_stop(tmp_path)

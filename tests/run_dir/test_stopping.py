"""Who is told to stop; tests/series/test_kills.py and tests/lora_training/test_train.py stop for real."""

from helpers.files import read_json, write_json
from helpers.run_dir.stopping import tell_training_to_stop, training_in


def test_no_other_process_is_told_to_stop_than_the_one_that_trains(tmp_path):
    assert not tell_training_to_stop(tmp_path)
    with training_in(tmp_path):
        named = read_json(tmp_path / ".training.json")
    write_json(tmp_path / ".training.json", named | {"created": named["created"] - 1})  # a killed one's number, reused
    assert not tell_training_to_stop(tmp_path)

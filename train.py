"""Stage 04 without its notebook, for several GPUs: `accelerate launch train.py --run-dir runs/full`."""

import os

import typer

from helpers.__main__ import DEFAULT_RUN, RunDir, run_commands

app = typer.Typer(add_completion=False)


@app.command()
def main(run_dir: RunDir = DEFAULT_RUN) -> None:
    """Train on the rows that 03 put into the run folder: `python -m helpers run --only 03` makes them."""
    from helpers.files import project_path
    from helpers.lora_training.backends import start_backend
    from helpers.machine.hardware import describe_machine
    from helpers.machine.processes import is_main_process
    from helpers.run_dir.folder import find_run
    from helpers.run_dir.stopping import stops_in_one_line

    line = f"stopped: the same command goes on with {run_dir} from its last checkpoint"
    with stops_in_one_line(line):
        if describe_machine().gpu is None:  # else it is "cpu:0", for which transformers cannot load a checkpoint
            os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
        run = find_run(project_path(run_dir))
        start_backend(run)  # before the import below, which imports transformers
        from helpers.lora_training.train import train

        metrics = train(run)
    nll = metrics["validation_nll"]
    if is_main_process():
        print(f"validation loss {nll['before']:.3f} -> {nll['after']:.3f} in {metrics['seconds'] / 60:.1f} minutes")


if __name__ == "__main__":
    run_commands(app, "train.py")

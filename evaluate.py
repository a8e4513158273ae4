"""Stage 05 without its notebook, for several GPUs: `accelerate launch evaluate.py --run-dir runs/full`.

`python -m helpers run --from 05` takes over its replies, and shows them.
"""

import typer

from helpers import ends_in_one_line


def main(run_dir: str = "runs/default", profile: str = "auto") -> None:
    """Ask the base and the tuned model of the run folder, each process its share of the questions."""
    from helpers.machine.processes import is_main_process, join
    from helpers.run_dir.folder import open_run
    from helpers.run_dir.stopping import stops_in_one_line

    line = f"stopped: the same command goes on with {run_dir}, of which the replies are kept"
    with ends_in_one_line(), stops_in_one_line(line):
        from helpers.evaluation.evaluate import evaluate  # imports transformers, which takes seconds

        run = open_run(profile, run_dir)
        join()
        metrics = evaluate(run)
    if is_main_process():
        base, tuned = (metrics["validation"][side]["nll"] for side in ("base", "tuned"))
        print(f"loss of unseen rows {base:.3f} -> {tuned:.3f}; `python -m helpers run --from 05` goes on")


if __name__ == "__main__":
    typer.run(main)

"""Stage 05 without its notebook, for several GPUs: `accelerate launch evaluate.py --run-dir runs/full`.

`python -m helpers run --from 05` takes over its replies, and shows them.
"""

import typer

from helpers.__main__ import DEFAULT_RUN, RunDir, run_commands

app = typer.Typer(add_completion=False)


@app.command()
def main(run_dir: RunDir = DEFAULT_RUN) -> None:
    """Ask the base and the tuned model of the run folder, each process its share of the questions."""
    from helpers.files import project_path
    from helpers.machine.processes import is_main_process, join
    from helpers.run_dir.folder import find_run
    from helpers.run_dir.stopping import stops_in_one_line

    line = f"stopped: the same command goes on with {run_dir}, of which the replies are kept"
    with stops_in_one_line(line):
        from helpers.evaluation.evaluate import evaluate  # imports transformers, which takes seconds

        run = find_run(project_path(run_dir))
        join()
        metrics = evaluate(run)
    if is_main_process():
        base, tuned = (metrics["validation"][side]["nll"] for side in ("base", "tuned"))
        print(f"loss of unseen rows {base:.3f} -> {tuned:.3f}; `python -m helpers run --from 05` goes on")


if __name__ == "__main__":
    run_commands(app, "evaluate.py")

"""The command line: `python -m helpers run|score|ask|index|serve|push|check`."""

import os
import re
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from helpers import InputError, ends_in_one_line
from helpers.files import typed_path

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Fine-tune a reasoning model in seven notebooks, and see if it helped.",
)
console = Console(highlight=False, soft_wrap=True)
UsageError: Any = typer.BadParameter.__base__  # to which Typer 0.27, Colab's, gives no public name

Profile = Annotated[str, typer.Option(help="smoke, laptop, t4, full, or auto: what this machine can do.")]
RunDir = Annotated[str, typer.Option(help="The run folder.")]
Setting = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
DEFAULT_RUN = "runs/default"
# For what uses a run instead of making one.
MadeRun = Annotated[
    str, typer.Option(help="The run folder; else AI_DOCTOR_RUN_DIR, else the one in runs/ that was exported last.")
]
Sources = Annotated[bool, typer.Option("--sources", help="Look questions up first; answers have their sources.")]
Engine = Literal["auto", "llama.cpp", "vllm"]
IndexFile = Annotated[Path | None, typer.Option(help="The index to look them up in; else the one that 07 made.")]


@app.command()
def run(
    profile: Profile = "auto",
    run_dir: RunDir = DEFAULT_RUN,
    settings: Setting = None,
    start: Annotated[str | None, typer.Option("--from", help="Begin with this stage, 03 say.")] = None,
    only: Annotated[str | None, typer.Option(help="Run this stage alone.")] = None,
    force: Annotated[
        bool, typer.Option(help="Run finished stages again; take settings that need another folder, too.")
    ] = False,
) -> None:
    """Run the series, notebooks 01 to 07; finished stages whose inputs did not change are skipped."""
    from helpers.run_dir.stopping import stops_in_one_line

    line = (
        f"stopped: the same command goes on with {run_dir}; finished stages are skipped, 04 continues from its last "
        "checkpoint, 05 and 07 keep their replies"
    )
    if not run_dir:  # an unset variable: else the working folder
        raise InputError("--run-dir names no folder")
    path = typed_path(run_dir)
    with stops_in_one_line(line, path):
        from helpers.report.results import headline, open_book
        from helpers.series.runner import choose_stages, run_series
        from helpers.tracking.progress import StageLines

        stages = choose_stages(start, only)
        opened = _open(profile, path, settings, force)
        console.print(f"profile [bold]{opened.config.profile}[/], run folder [bold]{opened.label}[/]")
        with closing(StageLines()) as tell:
            times = run_series(opened, stages, force, tell)
    total = sum(seconds or 0 for _, seconds in times)
    skipped = sum(seconds is None for _, seconds in times)
    ran = len(times) - skipped
    console.print(f"\n{ran} stage{'s' * (ran != 1)} run in {total / 60:.1f} minutes, {skipped} skipped")
    _print_table(("base", "tuned"), headline(opened))
    _print_table(("closed", "reading"), open_book(opened))
    console.print(f"\nOpen {opened.path / 'index.html'}")


@app.command()
def score(run_dir: MadeRun = "") -> None:
    """Score the replies that a run folder holds once more, without a model: its metrics and index.html anew."""
    from helpers.evaluation.evaluate import rescore
    from helpers.report.results import headline, write_index
    from helpers.run_dir.folder import alone_in, find_run

    opened = find_run(_made(run_dir))
    with alone_in(opened):
        rescore(opened)
        write_index(opened)
    _print_table(("base", "tuned"), headline(opened))
    console.print(f"\nOpen {opened.path / 'index.html'}")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="A clinical question; - or none reads standard input.")] = "-",
    run_dir: MadeRun = "",
    profile: Profile = "auto",
    settings: Setting = None,
    base: Annotated[bool, typer.Option(help="Ask the base model, without the adapter.")] = False,
    compare: Annotated[bool, typer.Option(help="Ask the base model and then the tuned one.")] = False,
    endpoint: Annotated[str, typer.Option(help="Ask an OpenAI-compatible server (key: AI_DOCTOR_ENDPOINT_KEY).")] = "",
    model: Annotated[str, typer.Option(help="The model's name there; else the first it lists.")] = "",
    sources: Sources = False,
    index: IndexFile = None,
) -> None:
    """Put a question to a run's tuned model; its reasoning and answer stream. No medical advice."""
    from helpers.config import Config
    from helpers.use.ask import local_answerers, print_answers
    from helpers.use.client import Endpoint, check_question, key_for

    if endpoint and (base or compare):
        raise InputError("a server has one model: --base and --compare are for a run folder")
    if question == "-" and sys.stdin.isatty():
        raise InputError("no question: give one, or pipe one in")
    text, passages = check_question(sys.stdin.read() if question == "-" else question), None
    opened = None if endpoint else _open(profile, _made(run_dir), settings, record=False)
    if opened:
        config = opened.config
    else:
        config = Config.resolve("laptop" if profile == "auto" else profile, _overrides(settings))
    if sources or index:  # before a model is loaded, or a server asked for its name
        from helpers.use.citations import find_index, look_up

        library = find_index(opened, index and typed_path(index), config.retrieval.embedder)
        text, passages = look_up(library, text, config.retrieval.k)
    if opened:
        answerers = local_answerers(opened, ["base", "tuned"] if compare else ["base"] if base else ["tuned"])
    else:
        server = Endpoint(endpoint, key_for(endpoint), model)
        answerers = {server.model: partial(server.stream, settings=config.generation)}
    print_answers(text, answerers, passages)


@app.command()
def index(
    out: Annotated[Path, typer.Option(help="The index, one file; a second call adds to it, and changes nothing else.")],
    sources: Annotated[
        list[Path] | None, typer.Argument(help="OpenStax books, PubMed, MedQuAD, .txt, .md, .html, .pdf.")
    ] = None,
    pubmed: Annotated[str, typer.Option(metavar="QUERY", help="PubMed's best matches; kept beside the index.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Fetch so many of them, at most.")] = 1000,
) -> None:
    """Index files and folders of medical text, for `ask --sources --index` and 07 (retrieval.sources)."""
    from helpers.knowledge.index import Index

    out, paths = typed_path(out), [*map(typed_path, sources or [])]
    if pubmed:
        from helpers.knowledge.entrez import fetch_topic

        paths.append(out.parent / ("pubmed-" + re.sub(r"\W+", "-", pubmed.casefold()).strip("-")[:80]))
        fetch_topic(pubmed, paths[-1], limit)
    if not paths:
        raise InputError("nothing to index: name files or folders, or a --pubmed QUERY")
    with Index(out) as made:
        added = made.add(paths)
        for each in added.rejected:
            print(f"left out: {each.where}: {each.why}", file=sys.stderr)
        more = added.rejections - len(added.rejected)
        if more:
            print(f"left out: {more} more", file=sys.stderr)
        console.print(
            f"{added.documents:,} documents added, {added.unchanged:,} unchanged, {added.deleted:,} deleted, "
            f"{added.rejections:,} parts left out; {out} has {made.documents:,} documents in {len(made):,} passages"
        )


@app.command()
def serve(
    run_dir: MadeRun = "",
    base: Annotated[bool, typer.Option(help="Serve the base model, without the adapter.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; other than this machine's own it needs a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[str, typer.Option(envvar="AI_DOCTOR_API_KEY", help="What clients have to send.")] = "",
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Replies at once; more requests wait. llama.cpp: 4, vLLM: by its GPU.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=256, help="Tokens of question and reply, at most; else by the run's settings.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="auto: vLLM where it and a GPU are.")] = "auto",
    vllm: Annotated[
        str, typer.Option(envvar="AI_DOCTOR_VLLM", help="vLLM's own environment, or the `vllm` in it.")
    ] = "",
    sources: Sources = False,
    index: IndexFile = None,
) -> None:
    """Serve a run's tuned model with an OpenAI-compatible API, until Ctrl+C. No medical advice."""
    from helpers.run_dir.folder import find_run
    from helpers.use.citations import find_index
    from helpers.use.server import ServerSettings, serve_until_stopped

    folder = _made(run_dir)
    opened = None if base and not folder.exists() else find_run(folder, record=False)  # None: the embedded model
    settings = ServerSettings(host, port, api_key, parallel, context)
    library = find_index(opened, index and typed_path(index)) if sources or index else None
    serve_until_stopped(opened, "base" if base else "tuned", settings, engine, vllm, library)


@app.command()
def push(
    repo_id: Annotated[str, typer.Argument(help="The adapter's repository, USER/NAME; others get -merged and -GGUF.")],
    what: Annotated[list[str] | None, typer.Option(help="adapter (the default), merged or gguf; repeatable.")] = None,
    public: Annotated[bool, typer.Option("--public", help="For everyone to see; else private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show all that would be sent, and send nothing.")] = False,
    run_dir: MadeRun = "",
) -> None:
    """Publish a run's model on the Hugging Face hub, with a model card; takes HF_TOKEN or the stored login."""
    from helpers.run_dir.folder import find_run
    from helpers.use.publish import push_to_hub

    push_to_hub(find_run(_made(run_dir), record=False), repo_id, what or ["adapter"], not public, dry_run)


@app.command()
def check(profile: Profile = "auto", settings: Setting = None) -> None:
    """Show this machine, the profile that it can run, and which secrets are set."""
    from helpers.config import Config
    from helpers.machine.hardware import choose_profile, describe_machine
    from helpers.run_dir.folder import versions
    from helpers.tracking.secrets import export_secrets
    from helpers.tracking.wandb_run import wandb_mode

    machine = describe_machine()
    choice = choose_profile(machine)
    config = Config.resolve(choice.profile if profile == "auto" else profile, _overrides(settings))
    rows = {
        **{name.replace("_", " "): value for name, value in machine.model_dump().items() if value is not None},
        "compute type": machine.compute_dtype,
        "profile": f"{config.profile}" + (f" ({choice.why})" if profile == "auto" else ""),
        "model": config.model.name,
        "W&B": wandb_mode(config.tracking.wandb),
        **export_secrets(),
        **versions(),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)


def _made(run_dir: str) -> Path:
    """The requested run folder, which must be one, else the newest, whose name is then printed."""
    from helpers.run_dir.folder import check_run, run_folder

    found = run_folder(run_dir)
    if run_dir:
        check_run(found)
    elif found and found.exists():
        print(f"run folder {found}", file=sys.stderr)
    return found or typed_path(DEFAULT_RUN)


def _open(profile: str, path: Path, settings: list[str] | None, force: bool = False, record: bool = True) -> Any:
    from helpers.run_dir.folder import open_run

    return open_run(profile, path, _overrides(settings), force, record)


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    """The values of --set by key; a file, or a folder where it may be one, is meant from the working folder."""
    from helpers.config import CORPUS, FILE, marked, parse_assignment

    overrides = dict(map(parse_assignment, settings or []))
    for key in overrides.keys() & {*marked(FILE), *marked(CORPUS)}:
        value, folders = overrides[key], key in marked(CORPUS)
        several = isinstance(value, list)
        overrides[key] = [_from_here(each, folders) for each in value] if several else _from_here(value, folders)
    if backup := overrides.get("session.backup"):
        overrides["session.backup"] = str(typed_path(str(backup)))
    return overrides


def _from_here(value: Any, folders: bool) -> Any:
    if not isinstance(value, str) or value in ("", "handbook"):
        return value
    here = typed_path(value)
    return str(here) if here.is_file() or (folders and here.is_dir()) else value


def _print_table(sides: tuple[str, str], rows: list[tuple[str, str, str, str]]) -> None:
    if not rows:
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for name in ("", *sides, "difference (95% interval)"):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def run_commands(commands: typer.Typer, program: str) -> None:
    """Do what the command line asks for; any error is one line."""
    with ends_in_one_line():
        try:
            sys.exit(commands(prog_name=program, standalone_mode=False))
        except UsageError as error:  # which Typer would draw as a box of five lines
            raise InputError(f"{error.format_message().rstrip('.')}; --help lists what there is") from None


def main() -> None:
    """Run a command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run_commands(app, "python -m helpers")


if __name__ == "__main__":
    main()

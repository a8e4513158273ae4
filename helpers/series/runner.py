"""The series as one command: each notebook through papermill in a kernel of its own, finished stages skipped."""

import errno
import logging
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

import nbformat
import psutil
from jupyter_client.manager import AsyncKernelManager

from helpers import MACHINE, PROJECT_ROOT, STOPPED, InputError, StageError
from helpers.files import publish, read_json, write_json, write_text
from helpers.lora_training.backends import choose_backend
from helpers.machine.hardware import describe_machine
from helpers.report.results import CONTENT_POLICY, write_index
from helpers.run_dir.backup import back_up
from helpers.run_dir.folder import Run, alone, set_aside
from helpers.run_dir.layout import STAGES, made_from
from helpers.run_dir.owner import repeating
from helpers.run_dir.stopping import STARTED
from helpers.series.stages import changes, stage_inputs, trained_by_other_code
from helpers.tracking.progress import PROGRESS_FILE
from helpers.tracking.secrets import export_secrets

STATUS = {"InputError": 2, "StoppedError": STOPPED}  # what the command line exits with, by the error in a notebook
BACKUP_SECONDS = 300
START_SECONDS = 300
# What a kernel's error says when the disk is full: Python's, a quota's, safetensors' and PyTorch's words.
NO_ROOM = re.compile(r"Errno 28\b|Errno 122\b|[Nn]o space left|os error 28\b|requested and \d+ (?:written|reserved)")
# And when memory ran out: Python's, NumPy's, PyTorch's and the dynamic linker's words.
NO_MEMORY = re.compile(r"MemoryError|OutOfMemoryError|not enough memory|Cannot allocate memory|failed to map segment")
# And when it may not read or write: what Python says of a file.
NO_ACCESS = re.compile(rf"(?:PermissionError|OSError): \[Errno (?:{'|'.join(map(str, MACHINE))})\] (.+)")

# For nbconvert's pages, whose own style cuts long lines of code, breaks words anywhere and shrinks figures to a phone.
PAGE_STYLE = """
.jp-InputArea-editor .cm-editor { overflow-x: auto !important; }
.jp-OutputArea-output pre { word-break: normal !important; overflow-wrap: anywhere !important; }
.jp-RenderedHTMLCommon :is(pre, code) { overflow-wrap: anywhere; }
@media (min-width: 40rem) { .jp-RenderedHTMLCommon td code { overflow-wrap: break-word; } }
.jp-RenderedMarkdown pre { font-family: var(--jp-code-font-family); }
.jp-RenderedMarkdown details { margin-bottom: 1em; }
@media (max-width: 40rem) {
  .jp-RenderedImage { display: block !important; overflow-x: auto; }
  .jp-RenderedImage img { max-width: none !important; }
}
"""


class PrivateKernelManager(AsyncKernelManager):
    """Kernels reached through Unix sockets of this user, not through TCP ports that other users could connect to.

    What a kernel prints outside its notebook goes into the file `stderr`.
    """

    transport = "ipc"
    stderr: IO[bytes]

    async def start_kernel(self, **kwargs: Any) -> None:
        # PYTHONUTF8: libraries read their own files by the locale, which may be ASCII. LOCAL_RANK: a kernel is one
        # process, whatever launcher's variables there are (see helpers/machine/processes.py).
        environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
        await super().start_kernel(stderr=self.stderr, env=environment | {"PYTHONUTF8": "1"}, **kwargs)

    def _connection_file_default(self) -> str:
        self._folder = socket_folder()  # of the sockets, too; it goes with this object
        return f"{self._folder.name}/kernel.json"


def socket_folder() -> tempfile.TemporaryDirectory:
    """A folder for a kernel's sockets, whose paths may have 103 bytes; removes the folders of killed runs."""
    for left_over in Path("/tmp").glob("ai-doctor-*-*"):
        maker = left_over.name.split("-")[2]
        if maker.isdecimal() and not psutil.pid_exists(int(maker)):
            shutil.rmtree(left_over, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"ai-doctor-{os.getpid()}-", dir="/tmp")  # TMPDIR may be too long


def choose_stages(start: str | None = None, only: str | None = None) -> list[str]:
    """The stages to run, from numbers or names such as `03` or `03_dataset_prep`."""
    names = list(STAGES)

    def index(word: str) -> int:
        found = [i for i, name in enumerate(names) if name == word or name[:2] == word.zfill(2)]
        if not found:
            raise InputError(f"unknown stage {word!r}; valid: {', '.join(name[:2] for name in names)}")
        return found[0]

    if start and only:
        raise InputError("--from and --only exclude each other")
    if only:
        return [names[index(only)]]
    return names[index(start) if start else 0 :]


@alone
def run_series(
    run: Run,
    stages: list[str],
    force: bool = False,
    tell: Callable[[str, str, str], None] = lambda stage, state, detail: None,
) -> list[tuple[str, float | None]]:
    """Execute `stages` in order; returns each with its seconds, None for one that was skipped as finished.

    `tell(stage, state, detail)` is called with each event: state is "running", "finished", "skipped" or "moved". With
    `force`, or if the code of the training has changed, 04 sets the earlier one aside and trains from the start.
    Raises StageError.
    """
    if run.config.training.backend == "unsloth" and "04_lora_training" in stages:
        choose_backend(run.config, describe_machine())  # InputError before any work if Unsloth cannot run
    export_secrets()  # Colab gives secrets to the process of its page, not to the kernels started here
    os.environ.setdefault(STARTED, str(time.monotonic()))
    times: list[tuple[str, float | None]] = []
    for stage in stages:
        inputs = stage_inputs(run, stage)
        records = read_json(run / "stages.json") if (run / "stages.json").is_file() else {}
        before = records.get(stage, {}).get("inputs", {})
        before = before if isinstance(before, dict) else {}  # older versions recorded one fingerprint of all
        complete = all((run / name).is_file() for name in STAGES[stage].leaves)
        if not force and complete and before == inputs:
            tell(stage, "skipped", "finished earlier, inputs unchanged")
            times.append((stage, None))
            continue
        if changed := changes(before, inputs):
            tell(stage, "running", f"changed: {', '.join(changed)}")
        if stage == "04_lora_training" and (force or trained_by_other_code(before, inputs)):
            moved = set_aside(run.path, made_from("checkpoints"))
            # Without its record, a training that is stopped now is resumed the next time instead of restarted.
            records.pop(stage, None)
            write_json(run / "stages.json", records)
            if moved:
                tell(stage, "moved", moved)
        started = time.monotonic()
        earlier = set(run.path.glob("earlier/*"))
        with _backing_up(run, stage):
            try:
                with _listening(run, lambda line, stage=stage: tell(stage, "running", line)):
                    execute(run, stage)
            finally:
                for aside in sorted(set(run.path.glob("earlier/*")) - earlier):
                    names = sorted(path.name for path in aside.iterdir() if path.is_dir())
                    tell(stage, "moved", f"set aside in earlier/{aside.name}: {', '.join(names)}")
            seconds = time.monotonic() - started
            records[stage] = {"inputs": inputs, "seconds": round(seconds, 1)}
            write_json(run / "stages.json", records)
            write_index(run)
        tell(stage, "finished", f"{seconds:.0f} s")
        times.append((stage, seconds))
    write_index(run)
    return times


def execute(run: Run, stage: str) -> None:
    """Run one notebook with papermill; writes it and its HTML page to notebooks/ of the run folder."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    target = run / f"notebooks/{stage}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp.ipynb")
    parameters = {"PROFILE": "auto", "RUN_DIR": run.label, "OVERRIDES": {}}
    with tempfile.TemporaryFile() as stderr:
        try:
            papermill.execute_notebook(
                PROJECT_ROOT / f"notebooks/{stage}.ipynb",
                temporary,
                parameters=parameters,
                cwd=PROJECT_ROOT,
                kernel_name="python3",
                kernel_manager_class=type("KernelManager", (PrivateKernelManager,), {"stderr": stderr}),
                start_timeout=START_SECONDS,
                progress_bar=False,
                log_output=False,
            )
        except PapermillExecutionError as error:
            reason, status = error.evalue.partition("\n")[0], STATUS.get(error.ename, 1)
            if NO_ROOM.search(f"{error.ename}: {error.evalue}"):
                raise InputError(_no_room(run, stage)) from None
            if NO_MEMORY.search(f"{error.ename}: {error.evalue}"):
                raise InputError(
                    f"{stage}: memory ran out ({reason or error.ename}): end other programs, or set smaller batches"
                ) from None
            if denied := NO_ACCESS.match(f"{error.ename}: {reason}"):
                raise InputError(f"{stage}: {denied[1]}; what was finished stays") from None
            raise StageError(
                reason if status != 1 else f"{stage} failed: {error.ename}: {reason}",
                f"in {stage}, cell {error.exec_count}:\n{error.source}\n\n" + "\n".join(error.traceback),
                status,
            ) from None
        except DeadKernelError:
            stderr.seek(0)
            raise StageError(
                f"{stage} failed: its kernel died, most often because memory ran out",
                stderr.read().decode(errors="replace"),
            ) from None
        except RuntimeError as error:  # jupyter_client's, and it waits by a clock that can be put forward
            if "didn't respond in" not in str(error):
                raise
            raise StageError(
                f"{stage} failed: its kernel did not start in {START_SECONDS} seconds, or the clock jumped: try again"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(_no_room(run, stage)) from None
        finally:
            # Also after a failure, which the notebook helps to understand, unless a full disk cut it off.
            try:
                nbformat.read(temporary, as_version=4)
            except (FileNotFoundError, ValueError):
                pass
            else:
                publish(temporary, target)
                write_page(target)
            temporary.unlink(missing_ok=True)


def _no_room(run: Run, stage: str) -> str:
    return f"{stage}: the disk of {run.label}, or of the temporary folder, is full: free some room and run it again"


def repository_address() -> str:
    """The address that stands in pyproject.toml."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"]


ADDRESS = repository_address()


def write_page(notebook: Path) -> None:
    """Write the notebook as a self-contained HTML page that runs no script and loads nothing."""
    from nbconvert import HTMLExporter

    quiet = logging.getLogger("nbconvert")  # else each figure without alternative text is a warning on the terminal
    quiet.setLevel(logging.ERROR)
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, log=quiet)
    content, elsewhere = nbformat.read(notebook, as_version=4), f"]({ADDRESS}/blob/main/"
    for cell in content.cells:
        if cell.cell_type == "markdown":  # a picture from elsewhere, Colab's badge, becomes its text
            cell.source = re.sub(r"!\[([^]]*)\]\(https?:[^)]*\)", r"\1", cell.source)
            cell.source = re.sub(r"\]\((\d\d_\w+)\.ipynb\b", r"](\1.html", cell.source)  # the page beside this one
            cell.source = cell.source.replace("](../", elsewhere)
    body, _ = exporter.from_notebook_node(content, {"metadata": {"name": notebook.stem}})
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL | re.IGNORECASE)  # MathJax, Mermaid, RequireJS
    policy = f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'
    body = body.replace("<head>", f"<head>{policy}", 1)
    body = body.replace("</head>", f"<style>{PAGE_STYLE}</style></head>", 1)
    write_text(notebook.with_suffix(".html"), body)


@contextmanager
def _backing_up(run: Run, stage: str) -> Iterator[None]:
    """In the block, copy the run folder to `session.backup` every five minutes (04: at checkpoints), and at its end."""
    copy = partial(back_up, run.path, run.config.session.backup)
    try:
        with nullcontext() if stage == "04_lora_training" else repeating(BACKUP_SECONDS, copy):
            yield
    finally:
        copy()


@contextmanager
def _listening(run: Run, tell: Callable[[str], None]) -> Iterator[None]:
    path = run / ".progress"

    def listen() -> None:
        try:
            tell(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            tell("")

    os.environ[PROGRESS_FILE] = str(path)
    try:
        with repeating(0.5, listen):
            yield
    finally:
        del os.environ[PROGRESS_FILE]
        path.unlink(missing_ok=True)

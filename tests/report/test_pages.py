"""Hostile rows, questions and replies in what a notebook shows and in the pages made of it: text, and nothing else."""

import ast
import dataclasses
import json
import shutil
from base64 import b64encode

import html_page
import nbformat
import yaml
from IPython.core.formatters import DisplayFormatter

from helpers import PROJECT_ROOT
from helpers.evaluation.remarks import example
from helpers.files import read_json, write_json
from helpers.report.markdown import quoted
from helpers.report.results import CONTENT_POLICY
from helpers.series.runner import repository_address, write_page

HOSTILE = [
    "<img src=http://evil.example/a.png onerror=alert(1)>",
    "![x](http://evil.example/b.png) [y](javascript:alert(2)) <http://evil.example>",
    "</td></table><script>alert(3)</script><style>body{display:none}</style>",
    "# evil heading <!-- evil comment",
    "```evil fence <meta http-equiv=refresh content='0;url=http://evil.example'>",
    "*evil* **evil** __evil__ h'[__evil__ ~~evil~~ `evil` $evil$ \\(evil\\) | evil | evil |",
]


class Page(html_page.Page):
    def handle_comment(self, data):
        assert "evil" not in data

    def assert_harmless(self):
        assert not self.names & {"script", "iframe", "object", "embed", "form", "link", "base"}
        for tag, attributes in self.tags:
            assert not any(name.startswith("on") for name in attributes)
            assert not any("evil" in (value or "") or "alert(" in (value or "") for value in attributes.values())
            assert not (attributes.get("src") or "data:").partition("data:")[0]
            assert attributes.get("http-equiv") in (None, "Content-Security-Policy")
            assert tag == "a" or not (attributes.get("href") or "").startswith(("http", "//"))


def bundle(value):
    """What Jupyter would store of a value that a cell ends in."""
    data = DisplayFormatter().format(value)[0]
    return {kind: b64encode(text).decode() if isinstance(text, bytes) else text for kind, text in data.items()}


def outputs(cell, namespace):
    """A code cell run in `namespace`, as the outputs that Jupyter would store of its last expression."""
    body = ast.parse(cell.source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace) if last else None
    return [] if value is None else [nbformat.v4.new_output("display_data", bundle(value))]


def page_of(cells, folder):
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "page.ipynb")
    write_page(folder / "page.ipynb")
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def test_notebook_03_shows_hostile_rows_and_questions_as_text(tmp_path, capsys):
    topics = ["asthma", "gout", "malaria", "measles", "scurvy", "rabies", "mumps", "cholera", "tetanus", "anthrax"]
    cases = [
        f"{topic} {markup} number {k}?" for k, (topic, markup) in enumerate(zip(topics * 3, HOSTILE * 5, strict=True))
    ]
    rows = [{"Question": case, "Complex_CoT": case, "Response": case} for case in cases]
    rows.append({"Question": HOSTILE[0], "Complex_CoT": "thought", "Response": ""})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = [{"id": markup, "question": case, "options": {"A": markup, "B": "no"}, "answer_idx": "A"}
             for markup, case in zip(HOSTILE, cases, strict=False)]  # fmt: skip
    (tmp_path / "asked$x$.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    settings = {"data.source": str(tmp_path / "rows.jsonl"), "data.sample_size": None, "data.group_similarity": 0.9,
                "data.near_duplicate": 1.0, "evaluation.questions": [str(tmp_path / "asked$x$.jsonl")]}  # fmt: skip
    namespace = {"PROFILE": "smoke", "RUN_DIR": str(tmp_path / "run"), "OVERRIDES": settings}
    notebook = nbformat.read(PROJECT_ROOT / "notebooks/03_dataset_prep.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"][2:]  # after the set-up and the parameters
    assert "read_rows" in code[0].source
    for cell in code:
        cell.outputs = outputs(cell, namespace)
    capsys.readouterr()
    kinds = [set(output.data) for cell in code for output in cell.outputs]
    assert [kind for kind in kinds if "text/markdown" in kind] == [{"text/markdown", "text/plain"}] * 2
    page = page_of(code, tmp_path)
    page.assert_harmless()
    shown = {markup for markup in HOSTILE for pair in namespace["pairs"] if markup in pair["question"]}
    assert len(shown) >= 4
    assert all(markup in page.text for markup in shown)  # as it was written: nothing was taken for markup
    assert "&#" not in page.text
    assert "mathjax_ignore" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_replies_task_names_and_verdicts_are_text(tmp_path):
    from IPython.display import Markdown

    cell = nbformat.v4.new_code_cell("replies")
    for markup in HOSTILE:
        pair = {"task": markup, "id": markup, "outcome": "worse", "question": markup, "tuned": markup}
        pair["base"] = f"{markup}</think>{markup}"
        shown = [example([pair], "worse"), f"**{quoted(markup)}.** The verdict."]
        cell.outputs += [nbformat.v4.new_output("display_data", bundle(Markdown(text))) for text in shown]
        cell.outputs += [nbformat.v4.new_output("stream", text=markup)]
    page = page_of([cell], tmp_path)
    page.assert_harmless()
    assert [page.text.count(markup) for markup in HOSTILE] == [7] * len(HOSTILE)


def test_a_page_keeps_no_script_and_names_no_other_host(tmp_path):
    """Neither those of nbconvert's templates (MathJax, Mermaid, RequireJS), nor what a cell brought along."""
    cell = nbformat.v4.new_code_cell("x")
    raw = "<b>raw</b><SCRIPT src='http://evil.example/x.js'></SCRIPT>"
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": raw, "text/plain": ""})]
    page = page_of([cell, nbformat.v4.new_markdown_cell("$x$ ![badge](https://evil.example/badge.svg)")], tmp_path)
    page.assert_harmless()
    policies = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policies == [CONTENT_POLICY]
    assert "cdnjs" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_index_and_card_of_a_run_with_hostile_names(finished_run, tmp_path):
    from nbconvert.filters.markdown import markdown2html

    from helpers.report.model_card import model_card
    from helpers.report.results import write_index

    run = dataclasses.replace(finished_run, path=tmp_path / "<b>&run")
    shutil.copytree(finished_run.path, run.path)
    (run / "run.yaml").write_text(yaml.safe_dump({**run.record, "hardware": {**run.record["hardware"], "gpu": "<u>"}}))
    source = finished_run.config.data.model_copy(update={"source": "a`|<b>.jsonl"})
    run = dataclasses.replace(run, config=run.config.model_copy(update={"data": source}))
    metrics, data = read_json(run / "evaluation/metrics.json"), read_json(run / "data/report.json")
    [task] = metrics["tasks"].values()
    write_json(run / "evaluation/metrics.json", {**metrics, "tasks": dict.fromkeys(HOSTILE, task)})
    step = {"rule": HOSTILE[0], "rows_in": 1, "rows_out": 0, "reasons": {HOSTILE[1]: 1}}
    hostile = {"remarks": HOSTILE, "provenance": {"revision": None}, "steps": [step]}
    write_json(run / "data/report.json", {**data, **hostile})
    index = Page(write_index(run).read_text(encoding="utf-8"))
    card = Page(markdown2html(model_card(run, "adapter").split("---\n", 2)[2]))
    index.assert_harmless()
    for page in (index, card):
        assert [markup for markup in HOSTILE if markup in page.text] == HOSTILE
        assert not {"b", "u"} & page.names
    assert "<b>&run" in index.text
    assert "on\n<u>" in index.text
    assert "steps on <u>," in card.text
    assert "a`|<b>.jsonl" in card.text
    assert not any("evil" in str(attributes) for _, attributes in card.tags)


def test_links_of_a_page_lead_to_other_pages_of_the_run_and_to_the_project(tmp_path):
    text = "[one](01_setup.ipynb), [terms](../docs/GLOSSARY.md#loss) and [elsewhere](https://example.org/a.ipynb)"
    page_of([nbformat.v4.new_markdown_cell(text)], tmp_path)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for target in (
        "01_setup.html",
        f"{repository_address()}/blob/main/docs/GLOSSARY.md#loss",
        "https://example.org/a.ipynb",
    ):
        assert f'href="{target}"' in html

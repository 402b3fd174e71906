"""The notebook runs from top to bottom, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.taught.tiny import FLAGS, files

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "teach.ipynb"


def test_the_notebook_teaches_four_facts_and_takes_them_back(plain_checkpoint, tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [each for each in notebook.cells if "parameters" in each.metadata.get("tags", ())]
    given = files(tmp_path)
    told = {**FLAGS, "background": str(given["text"])}
    values = {"MODEL": str(plain_checkpoint), "FACTS": str(given["facts"])}
    values |= {"OUT": str(tmp_path / "out"), "FLAGS": told}
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    said = "".join(
        output.text
        for each in notebook.cells
        for output in each.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert "learned" in said and "taught by" in said
    assert "the same, bit for bit" in said and "rows are as before" in said
    assert "differs from the base: nothing" in said.rsplit("and 0 patches", 1)[1]


def test_it_is_committed_without_output():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(each.get("outputs") or each.get("execution_count") for each in cells)

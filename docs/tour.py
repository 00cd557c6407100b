"""Execute docs/tour.ipynb and write what it printed and drew into it: ``make tour``."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

TOUR = Path(__file__).with_suffix(".ipynb")

TIMEOUT = 120
"""Seconds that a cell may take."""


class ThisPython(KernelSpecManager):
    """Knows one kernel, that of the Python that runs this, whichever others are installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel, whatever its name."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class Kernels(AsyncKernelManager):
    """Starts that kernel. nbclient makes it, and so ends the kernel that it has started."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, kernel_spec_manager=ThisPython())


def execute(path: Path, folder: Path) -> NotebookNode:
    """The notebook at ``path`` with the outputs of its cells, executed in ``folder``.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, kernel_manager_class=Kernels, resources=resources, timeout=TIMEOUT
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell was executed
        if "outputs" in cell:
            cell.outputs = merged(cell.outputs)
    return notebook


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with what was written to a stream piece by piece in one, as it is shown."""
    whole: list[NotebookNode] = []
    for output in outputs:
        before = whole[-1] if whole else None
        if output.output_type == "stream" and before and before.get("name") == output.name:
            before.text += output.text
        else:
            whole.append(output)
    for output in whole:
        if output.output_type == "stream":
            output.text = as_shown(output.text)
    return whole


def as_shown(text: str) -> str:
    """What is left to see of a stream once its progress bars have been overwritten."""
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return "\n".join(lines)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        nbformat.write(execute(TOUR, Path(folder)), TOUR)

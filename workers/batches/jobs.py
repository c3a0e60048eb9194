"""Batches as jobs: files of calls, made for one model each.

Source: https://docs.mistral.ai/api/#tag/batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.batches.files import FileBatches


def jobs(*paths: str) -> FileBatches:
    """The batch API of a provider that has such jobs, for calls of these paths."""
    return FileBatches(
        frozenset(paths),
        jobs="/batch/jobs",
        order=_order,
        over=frozenset({"SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"}),
        failed="FAILED",
        outputs=("output_file", "error_file"),
        inputs=("input_files",),
        numbered=True,
    )


def _order(path: str, model: str, file: str) -> Mapping[str, Any]:
    return {"input_files": [file], "endpoint": f"/v1{path}", "model": model, "timeout_hours": 24}

"""What the official library for Python does with files, whichever provider is asked later."""

from __future__ import annotations

import hashlib

from openai import AsyncOpenAI

LINES = b'{"custom_id": "1"}\n' * 5000


async def files(sdk: AsyncOpenAI, _model: str) -> None:
    made = await sdk.files.create(
        file=("lines.jsonl", LINES),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.bytes, made.expires_at) == (len(LINES), made.created_at + 3600)
    assert await sdk.files.wait_for_processing(made.id) == made
    assert made.id in [file.id async for file in sdk.files.list(purpose="batch", limit=2)]
    assert (await sdk.files.content(made.id)).content == LINES
    assert (await sdk.files.delete(made.id)).deleted


async def files_in_parts(sdk: AsyncOpenAI, _model: str) -> None:
    upload = await sdk.uploads.upload_file_chunked(
        file=LINES,
        filename="lines.jsonl",
        bytes=len(LINES),
        mime_type="application/jsonl",
        purpose="batch",
        part_size=30_000,
        md5=hashlib.md5(LINES).hexdigest(),
    )
    assert upload.status == "completed"
    assert upload.file is not None
    assert (await sdk.files.content(upload.file.id)).content == LINES
    await sdk.files.delete(upload.file.id)


FILE_CALLS = {"files": files, "files, in parts": files_in_parts}

"""The OpenAI SDK against Millrace: only the address and the key change. pip install openai.

MILLRACE_HTTP (host:port) and MILLRACE_API_KEY say where and who.
"""

from __future__ import annotations

import os

import openai

ADDRESS = os.environ.get("MILLRACE_HTTP", "127.0.0.1:8000")
client = openai.OpenAI(
    base_url=f"http://{ADDRESS}/v1", api_key=os.environ["MILLRACE_API_KEY"], max_retries=2
)

answer = client.chat.completions.create(
    model="sim/hello",
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)

stream = client.chat.completions.create(
    model="sim/echo",
    messages=[{"role": "user", "content": "Say this again"}],
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
    if chunk.usage:
        print(f"\n-- {chunk.usage.total_tokens} tokens")

try:
    client.chat.completions.create(
        model="sim/hello", messages=[{"role": "user", "content": "Hello"}], temperature=9
    )
except openai.BadRequestError as error:
    print(f"{error.status_code} {error.code}, field {error.param}, request {error.request_id}")

"""What a model's name asks for: a provider, a metric, limits, a sort."""

from __future__ import annotations

import pytest

from broker.errors import InferenceError
from broker.routing.names import Limit, Wish, read

NAMES = [
    ("gpt-4o", Wish("gpt-4o")),
    ("openai/gpt-4o", Wish("gpt-4o", "openai")),
    ("my_vllm/llama", Wish("llama", "my_vllm")),
    ("nobody/llama", Wish("nobody/llama")),
    ("google/gemini-3-pro", Wish("gemini-3-pro", "gemini")),
    ("llama-3.1-70b-chat@together-ai", Wish("llama-3.1-70b-chat", "together_ai")),
    ("llama@nobody", Wish("llama@nobody")),
    ("a@b@openai", Wish("a@b", "openai")),
    ("llama@lowest-input-cost", Wish("llama", metric="input_cost")),
    ("llama@input-cost", Wish("llama", metric="input_cost")),
    ("llama@ic", Wish("llama", metric="input_cost")),
    ("llama@oc", Wish("llama", metric="output_cost")),
    ("llama@lowest-output-cost", Wish("llama", metric="output_cost")),
    ("llama@itl", Wish("llama", metric="itl")),
    ("llama@ttft", Wish("llama", metric="ttft")),
    ("llama@highest-tks-per-sec", Wish("llama", metric="speed")),
    ("llama@ots", Wish("llama", metric="speed")),
    (
        "llama@lowest-ttft<0.5ic<15itl",
        Wish("llama", metric="ttft", limits=(Limit("input_cost", 0.5), Limit("itl", 15))),
    ),
    ("llama@ic>50ots", Wish("llama", metric="input_cost", limits=(Limit("speed", 50),))),
    ("llama:nitro", Wish("llama", sort="throughput")),
    ("openai/gpt-4o:floor", Wish("gpt-4o", "openai", sort="price")),
    ("openai/gpt-4o@ic", Wish("gpt-4o", "openai", "input_cost")),
    (
        "openai/gpt-4o@ttft<0.5ic",
        Wish("gpt-4o", "openai", "ttft", (Limit("input_cost", 0.5),)),
    ),
    ("openai/gpt-4o@20240806", Wish("gpt-4o@20240806", "openai")),
    ("openai/@ic", Wish("@ic", "openai")),
    ("llama:free", Wish("llama:free")),
    (":floor", Wish(":floor")),
    # What a named provider is told stays as it is.
    ("openrouter/meta/llama:nitro", Wish("meta/llama:nitro", "openrouter")),
    ("openrouter/meta/llama@ic", Wish("meta/llama@ic", "openrouter")),
    ("openai/ft:gpt-4o:acme/x@y", Wish("ft:gpt-4o:acme/x@y", "openai")),
]


@pytest.mark.parametrize(("name", "wish"), NAMES)
def test_a_name_asks_for(name: str, wish: Wish) -> None:
    assert read(name, {"my_vllm"}) == wish


@pytest.mark.parametrize("name", ["m@ttft<ic", "m@ttft<5furlongs", "m@ttft<", "m@ic<0.5.5oc"])
def test_a_limit_that_cannot_be_read_says_what_one_looks_like(name: str) -> None:
    with pytest.raises(InferenceError, match=r"such as <0\.5ic") as told:
        read(name, ())
    assert (told.value.reason, told.value.param) == ("invalid_request", "model")

"""Speech, transcriptions and translations through the whole system, in four providers' formats."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from broker.bus.usage import usage_groups
from broker.v1 import generation_pb2, operations_pb2
from tests.system import rpc
from tests.system.audio_wire import DIGEST, FILE, PROVIDERS, SOUND, SPOKEN, TOKENS, answer, form_of
from tests.system.provider import FakeProvider, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until
from workers.sim.audio import mp3, pcm, wav


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(answer) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers = {
        name: {"base_url": fake.url(name) + path, "api_key": "k"}
        for name, path in PROVIDERS.items()
    }
    serves = ("sim", *PROVIDERS)
    async with shared_stack(tmp_path_factory, providers=providers, serves=serves) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = answer


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30
    ) as client:
        yield client


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as client:
        yield client


# Transcriptions.


@pytest.mark.parametrize("model", ["openai/gpt-4o-transcribe", "groq/whisper-large-v3"])
async def test_the_sdk_transcribes_and_every_byte_arrives(
    sdk: AsyncOpenAI, fake: FakeProvider, model: str
) -> None:
    heard = await sdk.audio.transcriptions.create(
        model=model, file=FILE, language="en", prompt="Names: Ünal", temperature=0.5
    )
    assert heard.text == "Hi there"
    assert heard.usage is not None
    assert heard.usage.to_dict() == TOKENS
    (call,) = fake.take()
    assert call.path.endswith("/v1/audio/transcriptions")
    assert call.body.count(SOUND) == 1
    form = form_of(call)
    assert "répétition.wav" in form.pop("file")
    assert form == {
        "model": model.partition("/")[2],
        "response_format": "json",
        "language": "en",
        "prompt": "Names: Ünal",
        "temperature": "0.5",
    }


async def test_every_format_is_made_of_what_the_provider_tells(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    create = sdk.audio.transcriptions.create
    asked: dict[str, Any] = {"model": "openai/whisper-1", "file": FILE}
    whole = await create(
        **asked, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    form = form_of(fake.take()[0])
    assert form["response_format"] == "verbose_json"
    assert form["timestamp_granularities[]"] == "segment"
    shown = whole.to_dict()
    assert shown["segments"][0] == {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 2.5,
        "text": " Hello there.",
        "tokens": [1, 2],
    }
    assert (shown["task"], shown["language"], shown["duration"]) == (
        "transcribe",
        "english",
        3661.042,
    )
    assert shown["words"] == [{"word": "Hello", "start": 0.0, "end": 0.4}]
    assert shown["usage"] == {"type": "duration", "seconds": 3662}
    assert await create(**asked, response_format="srt") == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n"
        "2\n00:00:02,500 --> 01:01:01,042\na -> b\n\n"
    )
    assert await create(**asked, response_format="vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello there.\n\n"
        "00:00:02.500 --> 01:01:01.042\na -> b\n\n"
    )
    assert await create(**asked, response_format="text") == "Hi there\n"
    diarized = await create(
        model="openai/gpt-4o-transcribe-diarize",
        file=FILE,
        response_format="diarized_json",
        chunking_strategy="auto",
        extra_body={"known_speaker_names": ["agent"]},
    )
    form = form_of(fake.take()[-1])
    assert form["chunking_strategy"] == "auto"
    assert form["known_speaker_names[]"] == "agent"
    assert diarized.to_dict()["segments"] == [
        {
            "type": "transcript.text.segment",
            "id": "seg_7",
            "start": 0.5,
            "end": 1.5,
            "speaker": "agent",
            "text": "Hi",
        }
    ]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("openai/gpt-4o-transcribe", "Hi there"),
        ("mistral/voxtral-mini-latest", "Salut"),
        ("groq/whisper-large-v3", "Hi there"),
    ],
)
async def test_the_sdk_streams_a_transcript_from_whoever(
    sdk: AsyncOpenAI, fake: FakeProvider, model: str, text: str
) -> None:
    if model.startswith("groq"):
        # It answers at once, whatever is asked.
        fake.script = lambda _: Said(body={"text": "Hi there"})
    stream = await sdk.audio.transcriptions.create(
        model=model,
        file=FILE,
        stream=True,
        chunking_strategy={"type": "server_vad", "threshold": 0.5},
    )
    said = [event async for event in stream]
    kinds = [event.type for event in said]
    assert set(kinds[:-1]) == {"transcript.text.delta"}
    assert kinds[-1] == "transcript.text.done"
    assert "".join(event.delta for event in said[:-1]) == text  # type: ignore[union-attr]
    assert said[-1].text == text  # type: ignore[union-attr]
    form = form_of(fake.take()[0])
    if model.startswith("openai"):
        assert form["stream"] == "true"
        assert form["chunking_strategy[type]"] == "server_vad"
        assert form["chunking_strategy[threshold]"] == "0.5"
        assert said[0].logprobs is not None  # type: ignore[union-attr]
        assert said[-1].usage.to_dict() == TOKENS  # type: ignore[union-attr]
    else:
        assert not {name for name in form if name.startswith("chunking_strategy")}


async def test_mistral_is_asked_for_times_where_they_are_shown(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    model = "mistral/voxtral-mini-latest"
    text = await sdk.audio.transcriptions.create(model=model, file=FILE, response_format="srt")
    assert text == "1\n00:00:00,000 --> 00:00:03,000\nSalut\n\n"
    assert form_of(fake.take()[0]).keys() == {"model", "file", "timestamp_granularities[]"}
    await sdk.audio.transcriptions.create(model=model, file=FILE)
    assert form_of(fake.take()[0]).keys() == {"model", "file"}


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
@pytest.mark.parametrize("model", ["openai/whisper-1", "groq/whisper-large-v3"])
async def test_the_sdk_translates(sdk: AsyncOpenAI, fake: FakeProvider, model: str) -> None:
    heard = await sdk.audio.translations.create(model=model, file=FILE)
    assert heard.text == "Hello there. a --> b"
    (call,) = fake.take()
    assert call.path.endswith("/audio/translations")
    verbose_ = await sdk.audio.translations.create(
        model=model, file=FILE, response_format="verbose_json"
    )
    assert verbose_.to_dict()["task"] == "translate"


async def test_what_a_provider_lacks_is_a_400(client: httpx.AsyncClient) -> None:
    for path, fields, param, code in (
        ("translations", {"model": "mistral/voxtral-mini-latest"}, "model", None),
        (
            "transcriptions",
            {"model": "cohere/transcribe", "language": "en", "response_format": "srt"},
            "response_format",
            "unsupported_parameter",
        ),
        ("transcriptions", {"model": "cohere/transcribe"}, "language", None),
        (
            "transcriptions",
            {"model": "groq/whisper-large-v3", "response_format": "diarized_json"},
            "response_format",
            "unsupported_parameter",
        ),
        (
            "transcriptions",
            {"model": "groq/w", "chunking_strategy": "auto", "drop_params": "false"},
            "chunking_strategy",
            "unsupported_parameter",
        ),
    ):
        response = await client.post(
            f"/v1/audio/{path}", data=fields, files={"file": FILE}, timeout=30
        )
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), error
        if code:
            assert error["code"] == code


async def test_a_cohere_transcript_is_its_text_alone(sdk: AsyncOpenAI, fake: FakeProvider) -> None:
    heard = await sdk.audio.transcriptions.create(
        model="cohere/transcribe", file=FILE, language="en"
    )
    assert heard.text == "Hi there"
    (call,) = fake.take()
    assert call.path == "/v2/audio/transcriptions"
    assert form_of(call).keys() == {"model", "language", "file"}


async def test_an_upstream_error_keeps_its_words(sdk: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no such model") as caught:
        await sdk.audio.transcriptions.create(model="openai/none", file=FILE)
    assert caught.value.code == "model_not_found"


async def test_bad_forms_are_refused_with_the_field(client: httpx.AsyncClient) -> None:
    async def post(**arguments: Any) -> tuple[int, str | None]:
        response = await client.post("/v1/audio/transcriptions", **arguments)
        return response.status_code, response.json()["error"]["param"]

    model = {"model": "sim"}
    assert await post(data=model, files={"other": FILE}) == (400, "file")
    assert await post(data=model, files={"file": ("a.wav", b"")}) == (400, "file")
    assert await post(files={"file": FILE}) == (400, "model")
    assert await post(json=model) == (415, None)
    broken = {"content-type": "multipart/form-data"}
    assert await post(content=b"--x--", headers=broken) == (400, None)
    cut = {"content-type": "multipart/form-data; boundary=x"}
    assert await post(content=b"--x\r\n\r\n", headers=cut) == (400, None)
    large = {"file": ("a.wav", bytes(33 << 20))}
    assert await post(data=model, files=large) == (413, None)


# Speech.


@pytest.mark.parametrize(
    "model", ["openai/gpt-4o-mini-tts", "groq/playai-tts", "mistral/voxtral-tts"]
)
async def test_the_sdk_speaks(sdk: AsyncOpenAI, fake: FakeProvider, model: str) -> None:
    sound = await sdk.audio.speech.create(
        model=model, input="Hello", voice="alloy", instructions="calm", speed=1.5
    )
    assert sound.content == SPOKEN
    assert sound.response.headers["content-type"] == "audio/mpeg"
    (call,) = fake.take()
    kept = {"instructions": "calm", "speed": 1.5} if model.startswith("openai") else {}
    kept = {"speed": 1.5} if model.startswith("groq") else kept
    name = model.partition("/")[2]
    assert call.json == {"model": name, "input": "Hello", "voice": "alloy", **kept}


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini-tts", "openai/tts-1", "mistral/voxtral-tts"])
async def test_sound_as_events_whoever_gives_it(
    client: httpx.AsyncClient, fake: FakeProvider, model: str
) -> None:
    asked = {"model": model, "input": "Hello", "voice": {"id": "v_1"}, "stream_format": "sse"}
    response = await client.post("/v1/audio/speech", json=asked)
    assert response.headers["content-type"].startswith("text/event-stream")
    said = [
        json.loads(block.partition("data: ")[2]) for block in response.text.split("\n\n") if block
    ]
    deltas, done = said[:-1], said[-1]
    assert b"".join(base64.b64decode(one["audio"]) for one in deltas) == SPOKEN
    assert {one["type"] for one in deltas} == {"speech.audio.delta"}
    assert done["type"] == "speech.audio.done"
    if model == "openai/gpt-4o-mini-tts":
        assert done["usage"] == {"input_tokens": 5, "output_tokens": 40, "total_tokens": 45}
    assert fake.take()[0].json["voice"] == {"id": "v_1"}


async def test_gemini_speaks_and_listens_in_its_own_format(
    sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    sound = await sdk.audio.speech.create(
        model="gemini/gemini-2.5-flash-preview-tts", input="Hello", voice="alloy", speed=2
    )
    assert sound.content[:4] + sound.content[44:] == b"RIFFHello"
    assert sound.response.headers["content-type"] == "audio/wav"
    assert sound.response.headers["x-dropped-params"] == "speed"
    (call,) = fake.take()
    voice = call.json["generationConfig"]["speechConfig"]["voiceConfig"]
    assert voice["prebuiltVoiceConfig"]["voiceName"] == "Kore"
    model = "gemini/gemini-2.5-flash"
    heard = await sdk.audio.transcriptions.create(model=model, file=FILE, language="en")
    assert heard.text == f"{len(SOUND)} {DIGEST}"
    assert heard.usage is not None
    details = {"text_tokens": 5, "audio_tokens": 40}
    assert heard.usage.to_dict()["input_token_details"] == details
    assert "en" in fake.take()[0].json["contents"][0]["parts"][1]["text"]
    stream = await sdk.audio.transcriptions.create(model=model, file=FILE, stream=True)
    said = [event async for event in stream]
    assert [event.type for event in said] == ["transcript.text.delta", "transcript.text.done"]
    with pytest.raises(openai.BadRequestError, match="times"):
        await sdk.audio.transcriptions.create(model=model, file=FILE, response_format="srt")


async def test_formats_have_the_providers_names_or_are_refused(
    client: httpx.AsyncClient, fake: FakeProvider
) -> None:
    body = {"input": "Hello", "voice": "v"}
    asked = {"model": "together_ai/cartesia/sonic-2", "response_format": "pcm", **body}
    assert (await client.post("/v1/audio/speech", json=asked)).content == SPOKEN
    assert fake.take()[0].json["response_format"] == "raw"
    asked = {"model": "groq/playai-tts", "response_format": "opus", **body}
    refused = await client.post("/v1/audio/speech", json=asked)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "response_format"


async def test_a_voice_cut_off_upstream_never_looks_whole(
    client: httpx.AsyncClient, fake: FakeProvider
) -> None:
    kind = {"content-type": "audio/mpeg"}
    fake.script = lambda _: Said(body=SPOKEN[:100_000], headers=kind, cut=True)
    asked = {"model": "openai/tts-1", "input": "Hello", "voice": "v"}
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/v1/audio/speech", json=asked)
    refused = await client.post(
        "/v1/audio/speech", json={**asked, "stream_format": "sse"}, timeout=30
    )
    assert '"speech.audio.done"' not in refused.text
    assert '"error"' in refused.text
    fake.script = lambda _: Said(body=b"", headers=kind)
    assert (await client.post("/v1/audio/speech", json=asked)).status_code == 502


# The simulator.


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_the_simulator_speaks_and_hears(sdk: AsyncOpenAI) -> None:
    text = "the sea " * 40
    sounds: dict[Literal["wav", "pcm", "mp3"], Callable[[str], bytes]]
    sounds = {"wav": wav, "pcm": pcm, "mp3": mp3}
    for kind, make in sounds.items():
        sound = await sdk.audio.speech.create(
            model="sim", input=text, voice="any", response_format=kind
        )
        assert sound.content == make(text)
    with wave.open(io.BytesIO(wav(text))) as opened:
        assert (opened.getframerate(), opened.getnchannels()) == (24_000, 1)
        assert opened.getnframes() == 24_000 // 20 * len(text)
    heard = await sdk.audio.transcriptions.create(model="sim", file=FILE)
    assert heard.text == f"transcribed répétition.wav with {len(SOUND)} bytes and digest {DIGEST}"
    srt = await sdk.audio.translations.create(model="sim", file=FILE, response_format="srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:00,500\ntranslated\n")


# gRPC.


def transcribe(model: str, **fields: Any) -> generation_pb2.Request:
    file = operations_pb2.Attachment(filename="a.wav", media_type="audio/wav", data=SOUND)
    asked = operations_pb2.TranscribeRequest(model=model, file=file, **fields)
    return generation_pb2.Request(transcribe=asked)


def speak(model: str, **fields: Any) -> generation_pb2.Request:
    asked = operations_pb2.SpeakRequest(model=model, input="Hello", **{"voice": b"v", **fields})
    return generation_pb2.Request(speak=asked)


async def test_audio_is_typed_over_grpc(stack: Stack) -> None:
    async with rpc.connected(stack) as client:
        answer = (await client.infer(transcribe("sim", response_format="verbose_json"))).answer
        assert DIGEST in answer.transcript.text
        assert answer.transcript.segments[-1].text.strip() == DIGEST
        assert answer.usage.input_audio_s > 0
        said = [event.WhichOneof("kind") for event in await client.events(transcribe("sim"))]
        assert said[0] == "started"
        assert set(said[1:-2]) == {"text"}
        assert said[-2:] == ["transcript", "completed"]
        spoken = (await client.infer(speak("sim", response_format="wav"))).answer
        assert (spoken.speech.data, spoken.speech.media_type) == (wav("Hello"), "audio/wav")
        heard = await client.events(speak("sim", response_format="pcm"))
        assert b"".join(event.audio.data for event in heard) == pcm("Hello")
        assert heard[1].audio.media_type == "audio/pcm"
        large = transcribe("sim")
        large.transcribe.file.data = SOUND * 12
        text = (await client.infer(large)).answer.transcript.text
        assert hashlib.sha256(SOUND * 12).hexdigest() in text
        reference = operations_pb2.AttachmentReference(number=0, size=3)
        for request, field in (
            (transcribe("sim", response_format="mp3"), "response_format"),
            (transcribe("sim", temperature=2), "temperature"),
            (speak("sim", voice=b""), "voice"),
            (speak("sim", response_format="json"), "response_format"),
            (speak("sim", speed=9), "speed"),
        ):
            failed = await rpc.failure(client.infer(request))
            assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", [field])
        for file in (
            operations_pb2.Attachment(),
            operations_pb2.Attachment(data=b""),
            operations_pb2.Attachment(reference=reference),
            operations_pb2.Attachment(url="https://a.example/b.wav"),
        ):
            request = transcribe("sim")
            request.transcribe.file.CopyFrom(file)
            assert (await rpc.failure(client.infer(request))).fields == ["file"]


# The books.


async def test_charges_are_in_seconds_characters_or_tokens(stack: Stack, sdk: AsyncOpenAI) -> None:
    before = {
        charge.request_id async for group in usage_groups(stack.bus) for charge in group.charges
    }
    await sdk.audio.transcriptions.create(
        model="openai/whisper-1", file=FILE, response_format="verbose_json"
    )
    await sdk.audio.transcriptions.create(model="openai/gpt-4o-transcribe", file=FILE)
    await sdk.audio.speech.create(model="openai/tts-1", input="Hello", voice="v")

    async def charged() -> list[Any]:
        charges = [charge async for group in usage_groups(stack.bus) for charge in group.charges]
        new = [charge.usage for charge in charges if charge.request_id not in before]
        return new if len(new) == 3 else []

    seconds, tokens, characters = await until(charged, "three charges")
    assert seconds.input_audio_s == 3662
    assert (tokens.input_tokens, tokens.input_audio_tokens, tokens.output_tokens) == (4, 10, 3)
    assert characters.characters == len("Hello")

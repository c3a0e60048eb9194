// What the official libraries for Node do for each row of the matrix, and what it is told.

import assert from 'node:assert/strict';

import Anthropic from '@anthropic-ai/sdk';
import OpenAI, { toFile } from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const HELLO = [{ role: 'user', content: 'Hello there!' }];
const WEATHER = {
  name: 'get_weather',
  description: 'The weather of a place.',
  parameters: {
    type: 'object',
    properties: { location: { type: 'string' }, days: { type: 'integer' } },
    required: ['location', 'days'],
    additionalProperties: false,
  },
  strict: true,
};
const ARGUMENTS = { location: 'Boston', days: 18 };
// What every picture of the stand-in is.
const PIXEL = 'iVBORw0KGgo=';
const REFUSED = 'this is refused';
const Weather = z.object({ city: z.string(), degrees: z.number().int() });
const PARSED = { city: 'Boston', degrees: 18 };

const heard = (model, words = 'Hello there!') => `${model.split('/')[0]} heard: ${words}`;

async function all(stream) {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
}

async function chat(sdk, model) {
  const { data, request_id } = await sdk.chat.completions
    .create({ model, messages: HELLO })
    .withResponse();
  assert.equal(data.choices[0].message.content, heard(model));
  assert.equal(data.choices[0].finish_reason, 'stop');
  assert.match(data.id, /^chatcmpl-/);
  assert.match(request_id, /^req_/);
}

async function chatStreamed(sdk, model) {
  const stream_options = { include_usage: true };
  const chunks = await all(
    await sdk.chat.completions.create({ model, messages: HELLO, stream: true, stream_options }),
  );
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
  assert.equal(text, heard(model));
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  assert.ok(chunks.at(-1).usage.completion_tokens > 0);
}

async function tools(sdk, model, stream) {
  const asked = { model, messages: HELLO, tools: [{ type: 'function', function: WEATHER }] };
  const told = stream
    ? await sdk.chat.completions.stream(asked).finalChatCompletion()
    : await sdk.chat.completions.create(asked);
  const { message, finish_reason } = told.choices[0];
  assert.equal(finish_reason, 'tool_calls');
  assert.equal(message.tool_calls.length, 1);
  const [call] = message.tool_calls;
  assert.equal(call.function.name, 'get_weather');
  assert.deepEqual(JSON.parse(call.function.arguments), ARGUMENTS);
  const result = { role: 'tool', tool_call_id: call.id, content: '18 degrees' };
  const { parsed, ...said } = message;
  const after = await sdk.chat.completions.create({ ...asked, messages: [...HELLO, said, result] });
  assert.ok(after.choices[0].message.content.startsWith(heard(model, '')));
}

async function chatParsed(sdk, model) {
  const response_format = zodResponseFormat(Weather, 'weather');
  const told = await sdk.chat.completions.parse({ model, messages: HELLO, response_format });
  assert.deepEqual(told.choices[0].message.parsed, PARSED);
}

async function completions(sdk, model) {
  const told = await sdk.completions.create({ model, prompt: 'Once upon' });
  assert.equal(told.choices[0].text, heard(model, 'Once upon'));
  assert.equal(told.choices[0].finish_reason, 'stop');
}

async function completionsStreamed(sdk, model) {
  const chunks = await all(await sdk.completions.create({ model, prompt: 'Once upon', stream: true }));
  const text = chunks.map((chunk) => chunk.choices[0]?.text ?? '').join('');
  assert.equal(text, heard(model, 'Once upon'));
}

async function embeddings(sdk, model) {
  for (const encoding of [{}, { encoding_format: 'float' }]) {
    const told = await sdk.embeddings.create({ model, input: ['a', 'two'], ...encoding });
    assert.deepEqual(
      told.data.map((row) => [...row.embedding]),
      [[1, 0.5, -2], [3, 0.5, -2]],
    );
  }
}

async function images(sdk, model) {
  const told = await sdk.images.generate({ model, prompt: 'A cat.', size: '1024x1024' });
  assert.deepEqual(told.data.map((one) => one.b64_json), [PIXEL]);
}

async function imagesEdited(sdk, model) {
  const image = await toFile(Buffer.from(PIXEL, 'base64'), 'cat.png', { type: 'image/png' });
  const told = await sdk.images.edit({ model, prompt: 'A hat on it.', image });
  assert.deepEqual(told.data.map((one) => one.b64_json), [PIXEL]);
}

async function imagesStreamed(sdk, model) {
  const asked = { model, prompt: 'A cat.', stream: true, partial_images: 2 };
  const events = await all(await sdk.images.generate(asked));
  assert.equal(events.at(-1).type, 'image_generation.completed');
  assert.equal(events.at(-1).b64_json, PIXEL);
}

const SOUND = Buffer.alloc(70_004, 1);
const MP3 = Buffer.from(Array(64).fill([0xff, 0xfb, 0x90, 0x00]).flat());

const sound = () => toFile(SOUND, 'sound.wav', { type: 'audio/wav' });

async function speech(sdk, model) {
  const told = await sdk.audio.speech.create({ model, input: 'Hello', voice: 'alloy' });
  assert.ok(Buffer.from(await told.arrayBuffer()).equals(MP3));
}

async function speechAsEvents(sdk, model) {
  const asked = { model, input: 'Hello', voice: 'alloy', stream_format: 'sse' };
  const lines = (await (await sdk.audio.speech.create(asked)).text()).split('\n');
  const events = lines.filter((line) => line.startsWith('data:')).map((line) => JSON.parse(line.slice(6)));
  const pieces = events.slice(0, -1).map((event) => Buffer.from(event.audio, 'base64'));
  assert.ok(Buffer.concat(pieces).equals(MP3));
  assert.equal(events.at(-1).type, 'speech.audio.done');
}

async function transcriptions(sdk, model) {
  const told = await sdk.audio.transcriptions.create({ model, file: await sound(), language: 'en' });
  assert.match(told.text, /heard 70004 bytes$/);
}

async function transcriptionsStreamed(sdk, model) {
  const asked = { model, file: await sound(), stream: true };
  const events = await all(await sdk.audio.transcriptions.create(asked));
  assert.equal(events.at(-1).type, 'transcript.text.done');
  assert.match(events.at(-1).text, /heard 70004 bytes$/);
}

async function transcriptionsSubtitles(sdk, model) {
  const asked = { model, file: await sound(), response_format: 'srt' };
  const told = await sdk.audio.transcriptions.create(asked);
  assert.match(told, /^1\n00:00:00,000 --> 00:00:01,500\n.*heard 70004 bytes\n\n$/);
}

async function translations(sdk, model) {
  const told = await sdk.audio.translations.create({ model, file: await sound() });
  assert.match(told.text, /heard 70004 bytes$/);
}

async function moderations(sdk, model) {
  const told = await sdk.moderations.create({ model, input: ['harm', 'more harm'] });
  assert.deepEqual(told.results.map((result) => result.flagged), [true, true]);
}

async function rerank(sdk, model) {
  const body = { model, query: 'q', documents: ['a', 'b'] };
  const told = await sdk.post('/rerank', { body });
  assert.deepEqual(told.results.map((place) => place.index), [1, 0]);
}

async function responses(sdk, model) {
  const told = await sdk.responses.create({ model, input: 'Hello there!' });
  assert.equal(told.output_text, heard(model));
  assert.equal(told.status, 'completed');
  assert.equal(told.usage.total_tokens, told.usage.input_tokens + told.usage.output_tokens);
}

async function responsesStreamed(sdk, model) {
  const stream = sdk.responses.stream({ model, input: 'Hello there!' });
  const events = await all(stream);
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  assert.equal(events[0].type, 'response.created');
  assert.equal(events.at(-1).type, 'response.completed');
  assert.equal((await stream.finalResponse()).output_text, heard(model));
}

async function responsesTools(sdk, model) {
  const tools = [{ type: 'function', ...WEATHER }];
  const told = await sdk.responses.create({ model, input: 'Hello there!', tools });
  const call = told.output.at(-1);
  assert.deepEqual([call.type, call.name], ['function_call', 'get_weather']);
  assert.deepEqual(JSON.parse(call.arguments), ARGUMENTS);
  const result = { type: 'function_call_output', call_id: call.call_id, output: '18 degrees' };
  const after = await sdk.responses.create({
    model,
    tools,
    input: [result],
    previous_response_id: told.id,
  });
  assert.ok(after.output_text.startsWith(heard(model, '')));
}

async function responsesParsed(sdk, model) {
  const text = { format: zodTextFormat(Weather, 'weather') };
  const told = await sdk.responses.parse({ model, input: 'Hello there!', text });
  assert.deepEqual(told.output_parsed, PARSED);
}

async function responsesChained(sdk, model) {
  const first = await sdk.responses.create({ model, input: 'Hello there!' });
  const previous_response_id = first.id;
  const second = await sdk.responses.create({ model, input: 'And then?', previous_response_id });
  assert.equal(second.previous_response_id, first.id);
  assert.equal(second.output_text, heard(model, 'And then?'));
  const items = await all(sdk.responses.inputItems.list(second.id));
  assert.equal(items.at(-1).content[0].text, 'And then?');
}

async function responsesKept(sdk, model) {
  const told = await sdk.responses.create({ model, input: 'Hello there!', metadata: { a: 'b' } });
  const kept = await sdk.responses.retrieve(told.id);
  assert.equal(kept.output_text, heard(model));
  assert.deepEqual(kept, told);
  const page = await sdk.responses.inputItems.list(told.id, { limit: 1, order: 'asc' });
  assert.deepEqual(page.data.map((item) => item.type), ['message']);
  await sdk.responses.delete(told.id);
  await assert.rejects(sdk.responses.retrieve(told.id), OpenAI.NotFoundError);
}

async function responsesBackground(sdk, model) {
  const asked = { model, input: 'Hello there!', background: true };
  const queued = await sdk.responses.create(asked);
  assert.ok(['queued', 'in_progress'].includes(queued.status));
  const events = await all(await sdk.responses.retrieve(queued.id, { stream: true }));
  assert.equal(events.at(-1).type, 'response.completed');
  const rest = await sdk.responses.retrieve(queued.id, { stream: true, starting_after: 2 });
  assert.deepEqual(await all(rest), events.slice(3));
  assert.equal((await sdk.responses.cancel(queued.id)).status, 'completed');
  const streamed = await all(await sdk.responses.create({ ...asked, stream: true }));
  assert.deepEqual(streamed.map((event) => event.type), events.map((event) => event.type));
}

async function responsesCounted(sdk, model) {
  const told = await sdk.responses.inputTokens.count({ model, input: 'Hello there!' });
  assert.equal(told.object, 'response.input_tokens');
  assert.ok(told.input_tokens > 0);
}

async function conversations(sdk, model) {
  const opened = await sdk.conversations.create({ metadata: { topic: 'demo' } });
  const conversation = opened.id;
  const told = await sdk.responses.create({ model, input: 'Hello there!', conversation });
  assert.equal(told.conversation.id, opened.id);
  const items = await all(sdk.conversations.items.list(opened.id, { order: 'asc' }));
  assert.deepEqual(items.map((item) => item.role), ['user', 'assistant']);
  const one = await sdk.conversations.items.retrieve(items[0].id, { conversation_id: opened.id });
  assert.equal(one.content[0].text, 'Hello there!');
  const more = [{ type: 'message', role: 'user', content: 'One more.' }];
  assert.equal((await sdk.conversations.items.create(opened.id, { items: more })).data.length, 1);
  const metadata = { topic: 'other' };
  await sdk.conversations.update(opened.id, { metadata });
  assert.deepEqual((await sdk.conversations.retrieve(opened.id)).metadata, metadata);
  assert.ok((await sdk.conversations.delete(opened.id)).deleted);
  await assert.rejects(sdk.conversations.retrieve(opened.id), OpenAI.NotFoundError);
}

async function models(sdk, model) {
  const provider = model.split('/')[0];
  const listed = (await all(sdk.models.list())).filter((found) => found.owned_by === provider);
  assert.deepEqual(await sdk.models.retrieve(listed[0].id), listed[0]);
  const told = await all(anthropicClient(sdk).models.list());
  assert.ok(told.some((found) => found.id.startsWith(`${provider}/`) && found.type === 'model'));
}

function anthropicClient(sdk) {
  const baseURL = sdk.baseURL.replace(/\/v1\/?$/, '');
  return new Anthropic({ apiKey: sdk.apiKey, baseURL, maxRetries: 0, timeout: 30_000 });
}

const max_tokens = 100;

async function messages(sdk, model) {
  const told = await anthropicClient(sdk).messages.create({ model, messages: HELLO, max_tokens });
  assert.deepEqual(told.content.map((block) => block.text), [heard(model)]);
  assert.equal(told.stop_reason, 'end_turn');
  assert.match(told.id, /^msg_/);
  assert.match(told._request_id, /^req_/);
}

async function messagesStreamed(sdk, model) {
  const stream = anthropicClient(sdk).messages.stream({ model, messages: HELLO, max_tokens });
  const pieces = [];
  stream.on('text', (piece) => pieces.push(piece));
  assert.equal(await stream.finalText(), heard(model));
  assert.ok(pieces.length > 1);
}

async function messagesTools(sdk, model) {
  const client = anthropicClient(sdk);
  const tools = [{ name: WEATHER.name, input_schema: WEATHER.parameters }];
  const asked = { model, max_tokens, tools };
  const told = await client.messages.create({ ...asked, messages: HELLO });
  assert.equal(told.stop_reason, 'tool_use');
  const call = told.content.find((block) => block.type === 'tool_use');
  assert.deepEqual(call.input, ARGUMENTS);
  const result = { type: 'tool_result', tool_use_id: call.id, content: '18 degrees' };
  const history = [
    ...HELLO,
    { role: 'assistant', content: told.content },
    { role: 'user', content: [result] },
  ];
  const after = await client.messages.create({ ...asked, messages: history });
  assert.equal(after.stop_reason, 'end_turn');
}

async function messagesCounted(sdk, model) {
  const told = await anthropicClient(sdk).messages.countTokens({ model, messages: HELLO });
  assert.ok(told.input_tokens > 0);
}

async function errors(sdk, model) {
  const refused = [{ role: 'user', content: REFUSED }];
  for (const stream of [false, true]) {
    await assert.rejects(sdk.chat.completions.create({ model, messages: refused, stream }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.match(error.message, new RegExp(REFUSED));
      assert.equal(error.type, 'invalid_request_error');
      assert.match(error.requestID, /^req_/);
      return true;
    });
  }
  await assert.rejects(sdk.responses.create({ model, input: REFUSED }), OpenAI.BadRequestError);
  const hot = sdk.chat.completions.create({ model, messages: HELLO, temperature: 3 });
  await assert.rejects(hot, { param: 'temperature' });
  const body = { model, messages: refused, max_tokens };
  await assert.rejects(anthropicClient(sdk).messages.create(body), Anthropic.BadRequestError);
  const stranger = sdk.withOptions({ apiKey: 'mr-wrong' });
  await assert.rejects(
    stranger.chat.completions.create({ model, messages: HELLO }),
    OpenAI.AuthenticationError,
  );
}

export const CALLS = {
  chat,
  'chat, streamed': chatStreamed,
  'chat, tools': (sdk, model) => tools(sdk, model, false),
  'chat, tools streamed': (sdk, model) => tools(sdk, model, true),
  'chat, parsed': chatParsed,
  completions,
  'completions, streamed': completionsStreamed,
  embeddings,
  images,
  'images, edited': imagesEdited,
  'images, streamed': imagesStreamed,
  speech,
  'speech, as events': speechAsEvents,
  transcriptions,
  'transcriptions, streamed': transcriptionsStreamed,
  'transcriptions, subtitles': transcriptionsSubtitles,
  translations,
  moderations,
  rerank,
  responses,
  'responses, streamed': responsesStreamed,
  'responses, tools': responsesTools,
  'responses, parsed': responsesParsed,
  'responses, chained': responsesChained,
  'responses, kept': responsesKept,
  'responses, in the background': responsesBackground,
  'responses, counted': responsesCounted,
  conversations,
  messages,
  'messages, streamed': messagesStreamed,
  'messages, tools': messagesTools,
  'messages, counted': messagesCounted,
  models,
  errors,
};

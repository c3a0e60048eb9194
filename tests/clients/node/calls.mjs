// What the official libraries for Node do for each row of the matrix, and what it is told.

import assert from 'node:assert/strict';

import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { FILE_CALLS } from './file_calls.mjs';
import { MEDIA_CALLS, PIXEL, all } from './media_calls.mjs';

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
const SLOW = 'take your time';
const REFUSED = 'this is refused';
const Weather = z.object({ city: z.string(), degrees: z.number().int() });
const PARSED = { city: 'Boston', degrees: 18 };

const heard = (model, words = 'Hello there!') => `${model.split('/')[0]} heard: ${words}`;

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

async function responsesCancelled(sdk, model) {
  const running = await sdk.responses.create({ model, input: SLOW, background: true });
  assert.equal((await sdk.responses.cancel(running.id)).status, 'cancelled');
  assert.equal((await sdk.responses.retrieve(running.id)).status, 'cancelled');
}

async function responsesCounted(sdk, model) {
  const told = await sdk.responses.inputTokens.count({ model, input: 'Hello there!' });
  assert.equal(told.object, 'response.input_tokens');
  assert.ok(told.input_tokens > 0);
}

async function responsesImages(sdk, model) {
  const tools = [{ type: 'image_generation' }];
  const told = await sdk.responses.create({ model, input: 'Draw a cat.', tools });
  const images = told.output.filter((item) => item.type === 'image_generation_call');
  assert.deepEqual(images.map((image) => image.result), [PIXEL]);
  assert.ok(told.output_text.startsWith(heard(model, '')));
}

async function responsesImagesStreamed(sdk, model) {
  const tools = [{ type: 'image_generation', partial_images: 1 }];
  const asked = { model, input: 'Draw a cat.', tools, stream: true };
  const events = await all(await sdk.responses.create(asked));
  const kind = 'response.image_generation_call.partial_image';
  const partial = events.filter((event) => event.type === kind);
  assert.deepEqual(partial.map((event) => event.partial_image_b64), [PIXEL]);
  assert.equal(events.at(-1).type, 'response.completed');
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
  ...MEDIA_CALLS,
  chat,
  'chat, streamed': chatStreamed,
  'chat, tools': (sdk, model) => tools(sdk, model, false),
  'chat, tools streamed': (sdk, model) => tools(sdk, model, true),
  'chat, parsed': chatParsed,
  completions,
  'completions, streamed': completionsStreamed,
  responses,
  'responses, streamed': responsesStreamed,
  'responses, tools': responsesTools,
  'responses, parsed': responsesParsed,
  'responses, chained': responsesChained,
  'responses, kept': responsesKept,
  'responses, in the background': responsesBackground,
  'responses, cancelled': responsesCancelled,
  'responses, counted': responsesCounted,
  'responses, images': responsesImages,
  'responses, images streamed': responsesImagesStreamed,
  conversations,
  messages,
  'messages, streamed': messagesStreamed,
  'messages, tools': messagesTools,
  'messages, counted': messagesCounted,
  ...FILE_CALLS,
  models,
  errors,
};

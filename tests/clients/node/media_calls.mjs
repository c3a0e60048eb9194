// What the official OpenAI library for Node does with vectors, pictures, sound and judgements.

import assert from 'node:assert/strict';

import { toFile } from 'openai';

// What every picture of the stand-in is.
export const PIXEL = 'iVBORw0KGgo=';

export async function all(stream) {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
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

export const MEDIA_CALLS = {
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
};

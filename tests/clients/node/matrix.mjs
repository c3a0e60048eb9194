// Makes the calls that standard input names, [row, provider, model] each; a line of JSON for each.

import { text } from 'node:stream/consumers';

import OpenAI from 'openai';

import { CALLS } from './calls.mjs';

const sdk = new OpenAI({ maxRetries: 0, timeout: 30_000 });

for (const [row, provider, model] of JSON.parse(await text(process.stdin))) {
  let wrong = '';
  try {
    await CALLS[row](sdk, model);
  } catch (error) {
    wrong = error.stack ?? String(error);
  }
  console.log(JSON.stringify({ row, provider, wrong }));
}

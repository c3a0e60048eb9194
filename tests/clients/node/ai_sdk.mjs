// Vercel's AI SDK streams chat with a tool, by each of its providers for OpenAI's API; a line of JSON
// for each.

import { text } from 'node:stream/consumers';

import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const settings = { baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY };
const compatible = createOpenAICompatible({
  ...settings,
  name: 'millrace',
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI(settings);
const WAYS = {
  'openai-compatible': (model) => compatible(model),
  'openai, chat': (model) => openai.chat(model),
  'openai, responses': (model) => openai.responses(model),
};

async function converse(model) {
  const asked = [];
  const weather = tool({
    description: 'The weather of a place.',
    inputSchema: z.object({ location: z.string(), days: z.number().int() }),
    execute: async (input) => {
      asked.push(input);
      return '18 degrees';
    },
  });
  const result = streamText({
    model,
    prompt: 'Hello there!',
    tools: { weather },
    stopWhen: stepCountIs(3),
    maxRetries: 0,
    onError: ({ error }) => {
      throw error;
    },
  });
  let pieces = 0;
  let said = '';
  for await (const piece of result.textStream) {
    pieces += 1;
    said += piece;
  }
  const { object } = await generateObject({
    model,
    prompt: 'Hello there!',
    schema: z.object({ city: z.string(), degrees: z.number().int() }),
    maxRetries: 0,
  });
  const usage = await result.totalUsage;
  return { asked, pieces, said, object, tokens: usage.totalTokens };
}

for (const model of JSON.parse(await text(process.stdin))) {
  for (const [way, make] of Object.entries(WAYS)) {
    let told = {};
    try {
      told = await converse(make(model));
    } catch (error) {
      told = { wrong: error.stack ?? String(error) };
    }
    console.log(JSON.stringify({ model, way, ...told }));
  }
}

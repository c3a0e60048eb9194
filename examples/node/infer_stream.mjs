// One answer as it is written: node infer_stream.mjs PROMPT [MODEL].

import { inference, metadata, problemOf, question, within } from './connection.mjs';

const [prompt = 'Hello', model = 'sim/hello'] = process.argv.slice(2);

// call.cancel() cancels the work up to the provider; so does leaving the loop early.
const call = inference.inferStream({ request: question(prompt, model) }, metadata, within(300));
let usage;
try {
  for await (const { event } of call) {
    if (event.kind === 'text') process.stdout.write(event.text.text);
    if (event.kind === 'completed') usage = event.completed.usage; // the last of a whole answer
  }
  console.log(`\n-- ${usage.outputTokens} tokens`);
} catch (error) {
  console.error(problemOf(error));
  process.exitCode = 1;
}

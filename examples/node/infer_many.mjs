// Many requests over one call, results as they are done: node infer_many.mjs FILE [MODEL].
// FILE has one prompt a line. It is read as fast as the server takes requests, never all at once.

import { once } from 'node:events';
import { open } from 'node:fs/promises';

import { inference, metadata, problem, problemOf, question, textOf } from './connection.mjs';

const [file, model = 'sim/echo'] = process.argv.slice(2);
const call = inference.inferMany(metadata); // a bulk call lasts as long as its work: no deadline

async function send() {
  let number = 0;
  const lines = await open(file);
  for await (const prompt of lines.readLines()) {
    const request = { customId: `line-${(number += 1)}`, request: question(prompt, model) };
    if (!call.write(request)) await once(call, 'drain');
  }
  call.end();
}

let done = 0;
let failed = 0;
try {
  send().catch((error) => call.destroy(error));
  for await (const { customId, result, answer, error } of call) {
    // One request that fails does not end the call: its error is its result.
    if (result === 'error') {
      console.log(`${customId}\t${problem(error).reason}: ${error.message}`);
      failed += 1;
    } else {
      console.log(`${customId}\t${textOf(answer)}`);
      done += 1;
    }
  }
  console.log(`-- ${done} answered, ${failed} failed`);
} catch (error) {
  call.cancel();
  console.error(problemOf(error));
  process.exitCode = 1;
}

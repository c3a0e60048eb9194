// One question, one whole answer: node infer.mjs PROMPT [MODEL].

import { inference, metadata, problemOf, question, textOf, within } from './connection.mjs';

const [prompt = 'Hello', model = 'sim/hello'] = process.argv.slice(2);

inference.infer({ request: question(prompt, model) }, metadata, within(60), (error, response) => {
  if (error) {
    console.error(problemOf(error));
    process.exitCode = 1;
    return;
  }
  const { answer } = response;
  console.log(textOf(answer));
  console.log(`-- ${answer.provider}/${answer.model}, ${answer.usage.outputTokens} tokens`);
});

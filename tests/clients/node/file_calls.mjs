// What the official library for Node does with files, whichever provider is asked later.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';

import { toFile } from 'openai';

const LINES = '{"custom_id": "1"}\n'.repeat(5000);

async function read(sdk, id) {
  return (await sdk.files.content(id)).text();
}

async function files(sdk) {
  const made = await sdk.files.create({
    file: await toFile(Buffer.from(LINES), 'lines.jsonl'),
    purpose: 'batch',
    expires_after: { anchor: 'created_at', seconds: 3600 },
  });
  assert.equal(made.bytes, LINES.length);
  assert.equal(made.expires_at, made.created_at + 3600);
  assert.deepEqual(await sdk.files.waitForProcessing(made.id), made);
  const listed = [];
  for await (const file of sdk.files.list({ purpose: 'batch', limit: 2 })) listed.push(file.id);
  assert.ok(listed.includes(made.id));
  assert.equal(await read(sdk, made.id), LINES);
  assert.ok((await sdk.files.delete(made.id)).deleted);
}

async function filesInParts(sdk) {
  const upload = await sdk.uploads.create({
    bytes: LINES.length,
    filename: 'lines.jsonl',
    mime_type: 'application/jsonl',
    purpose: 'batch',
  });
  const part_ids = [];
  for (let start = 0; start < LINES.length; start += 30_000) {
    const data = await toFile(Buffer.from(LINES.slice(start, start + 30_000)), 'part');
    part_ids.push((await sdk.uploads.parts.create(upload.id, { data })).id);
  }
  const md5 = createHash('md5').update(LINES).digest('hex');
  const completed = await sdk.uploads.complete(upload.id, { part_ids, md5 });
  assert.equal(completed.status, 'completed');
  assert.equal(await read(sdk, completed.file.id), LINES);
  await sdk.files.delete(completed.file.id);
  const other = { bytes: 1, filename: 'a.jsonl', mime_type: 'application/jsonl', purpose: 'batch' };
  const cancelled = await sdk.uploads.cancel((await sdk.uploads.create(other)).id);
  assert.equal(cancelled.status, 'cancelled');
}

export const FILE_CALLS = { files, 'files, in parts': filesInParts };

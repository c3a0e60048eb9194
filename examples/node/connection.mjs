// What every example needs: the stubs made from protos/, a connection, the key, readable errors.
// MILLRACE_GRPC (host:port) and MILLRACE_API_KEY say where and who; the names are the server's own.

import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const folder = (path) => fileURLToPath(new URL(path, import.meta.url));

const definition = loader.loadSync(
  [
    'broker/v1/inference_service.proto',
    'broker/v1/control_service.proto',
    'google/rpc/error_details.proto',
  ],
  {
    // google/rpc comes with googleapis-common-protos in Python; in Node it has to be brought along.
    includeDirs: [folder('../../protos'), folder('googleapis')],
    longs: Number,
    enums: String,
    defaults: true, // 0 and '' where nothing was sent
    oneofs: true, // event.kind names the field that is set
  },
);
const { InferenceService, ControlService } = grpc.loadPackageDefinition(definition).broker.v1;

const ADDRESS = process.env.MILLRACE_GRPC ?? '127.0.0.1:8001';
const OPTIONS = {
  // A ping every 30 s finds a dead connection while a model thinks, and keeps NATs open.
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  // Answers may be larger than gRPC's 4 MB; what is sent is bounded by the server (32 MiB).
  'grpc.max_receive_message_length': 64 << 20,
  'grpc.max_send_message_length': -1,
};

export const inference = new InferenceService(ADDRESS, grpc.credentials.createInsecure(), OPTIONS);
export const control = new ControlService(ADDRESS, grpc.credentials.createInsecure(), OPTIONS);

// Goes with every call.
export const metadata = new grpc.Metadata();
metadata.set('authorization', `Bearer ${process.env.MILLRACE_API_KEY ?? ''}`);

// The deadline of a call, as an option of it.
export const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

// A request with one user message.
export const question = (prompt, model) => ({
  generate: { model, messages: [{ role: 'ROLE_USER', parts: [{ text: { text: prompt } }] }] },
});

export const textOf = (answer) =>
  answer.choices[0].message.parts.map((part) => part.text?.text ?? '').join('');

const unpack = (any) => {
  const type = definition[any.type_url.split('/').pop()];
  return [any.type_url.split('.').pop(), type?.deserialize(any.value)];
};

// Why a request failed, from a google.rpc.Status: `reason` is a row of the error table.
export function problem(status) {
  const { ErrorInfo, RetryInfo } = Object.fromEntries(status.details.map(unpack));
  const wait = RetryInfo?.retryDelay;
  return {
    reason: ErrorInfo?.reason,
    message: status.message,
    ...(ErrorInfo?.metadata.param && { param: ErrorInfo.metadata.param }),
    ...(wait && { retryAfter: wait.seconds + wait.nanos / 1e9 }), // seconds
  };
}

// Why a call failed; the reason is gRPC's own when the server was not reached.
export function problemOf(error) {
  const [details] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!details) {
    return { reason: grpc.status[error.code] ?? error.code, message: error.details ?? error.message };
  }
  return problem(definition['google.rpc.Status'].deserialize(details));
}

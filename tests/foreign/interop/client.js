// gRPC's interoperability cases, by gRPC's own library for Node, against a server that takes and sends no compression.
//
// Argument: the server's address. Prints a line for each case: its name, and `ok` or what was wrong.

'use strict';

const assert = require('node:assert');
const { once } = require('node:events');

const grpc = require('@grpc/grpc-js');
const { TestService, UnimplementedService } = require('./contract');

const [target] = process.argv.slice(2);
// Milliseconds. A call that takes longer is broken.
const TIMEOUT = 120_000;
const MESSAGE = 'test status message';
const SPECIAL_MESSAGE = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n';
const SIZES = [
  [27182, 31415],
  [8, 9],
  [1828, 2653],
  [45904, 58979],
];
const INITIAL = ['x-grpc-test-echo-initial', 'test_initial_metadata_value'];
const TRAILING = ['x-grpc-test-echo-trailing-bin', Buffer.from([0xab, 0xab, 0xab])];

const plain = grpc.credentials.createInsecure();
const test = new TestService(target, plain);
const unknown = new UnimplementedService(target, plain);
const gzip = new TestService(target, plain, {
  'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip,
});

const cases = {
  async empty_unary() {
    const { response } = await unary(test, 'EmptyCall', {});
    assert.deepEqual(response, {});
  },

  async large_unary() {
    await large({});
  },

  async client_streaming() {
    const requests = SIZES.map(([size]) => ({ payload: payload(size) }));
    const { response } = await sendAll(test, requests);
    assert.equal(response.aggregated_payload_size, 74922);
  },

  async server_streaming() {
    const sizes = SIZES.map(([, size]) => size);
    assert.deepEqual(await sizesOf(test.StreamingOutputCall(output(sizes), metadata(), options())), sizes);
  },

  async ping_pong() {
    const call = test.FullDuplexCall(metadata(), options());
    const responses = call[Symbol.asyncIterator]();
    for (const [sent, received] of SIZES) {
      call.write(output([received], sent));
      assert.equal((await responses.next()).value.payload.body.length, received);
    }
    call.end();
    assert.ok((await responses.next()).done);
  },

  async empty_stream() {
    const call = test.FullDuplexCall(metadata(), options());
    call.end();
    assert.deepEqual(await sizesOf(call), []);
  },

  async cancel_after_begin() {
    const ended = new Promise((resolve) => {
      const call = test.StreamingInputCall(metadata(), options(), (error) => resolve(error));
      // Cancelled in the same turn, the library would still open the stream afterwards, and keep it.
      setImmediate(() => call.cancel());
    });
    is((await ended)?.code, 'CANCELLED');
  },

  async cancel_after_first_response() {
    const call = test.FullDuplexCall(metadata(), options());
    call.write(output([31415], 27182));
    const [first] = await once(call, 'data');
    assert.equal(first.payload.body.length, 31415);
    call.cancel();
    const [error] = await once(call, 'error');
    is(error.code, 'CANCELLED');
  },

  async timeout_on_sleeping_server() {
    const call = test.FullDuplexCall(metadata(), { deadline: Date.now() + 1 });
    call.write(output([], 27182));
    await fails(sizesOf(call), 'DEADLINE_EXCEEDED');
  },

  async status_code_and_message() {
    const response_status = { code: 2, message: MESSAGE };
    const error = await fails(unary(test, 'UnaryCall', { response_status }), 'UNKNOWN');
    assert.equal(error.details, MESSAGE);
    const call = test.FullDuplexCall(metadata(), options());
    call.write({ response_status });
    call.end();
    assert.equal((await fails(sizesOf(call), 'UNKNOWN')).details, MESSAGE);
  },

  async special_status_message() {
    const response_status = { code: 2, message: SPECIAL_MESSAGE };
    const error = await fails(unary(test, 'UnaryCall', { response_status }), 'UNKNOWN');
    assert.equal(error.details, SPECIAL_MESSAGE);
  },

  async custom_metadata() {
    const { headers, trailers } = await unary(test, 'UnaryCall', largeRequest({}), echoed());
    assertEchoed(headers, trailers);
    const call = test.FullDuplexCall(echoed(), options());
    const ends = Promise.all([once(call, 'metadata'), once(call, 'status')]);
    call.write(output([314159], 271828));
    call.end();
    assert.deepEqual(await sizesOf(call), [314159]);
    const [[initial], [status]] = await ends;
    assertEchoed(initial, status.metadata);
  },

  async unimplemented_method() {
    await fails(unary(test, 'UnimplementedCall', {}), 'UNIMPLEMENTED');
  },

  async unimplemented_service() {
    await fails(unary(unknown, 'UnimplementedCall', {}), 'UNIMPLEMENTED');
  },

  // The server has no encoding but identity: what is compressed is UNIMPLEMENTED (compression.md).
  async client_compressed_unary() {
    const probe = largeRequest({ expect_compressed: { value: true } });
    await fails(unary(test, 'UnaryCall', probe), 'INVALID_ARGUMENT');
    await failsCompressed(unary(gzip, 'UnaryCall', probe));
    await large({ expect_compressed: { value: false } });
  },

  // As above: the first compressed message ends the stream.
  async client_compressed_streaming() {
    const probe = { payload: payload(27182), expect_compressed: { value: true } };
    await fails(sendAll(test, [probe]), 'INVALID_ARGUMENT');
    await failsCompressed(sendAll(gzip, [probe, { payload: payload(45904), expect_compressed: { value: false } }]));
  },

  // The server compresses nothing; both responses arrive.
  async server_compressed_unary() {
    for (const value of [true, false]) await large({ response_compressed: { value } });
  },

  async server_compressed_streaming() {
    const response_parameters = [
      { size: 31415, compressed: { value: true } },
      { size: 92653, compressed: { value: false } },
    ];
    const call = test.StreamingOutputCall({ response_parameters }, metadata(), options());
    assert.deepEqual(await sizesOf(call), [31415, 92653]);
  },
};

function metadata() {
  const metadata = new grpc.Metadata();
  return metadata;
}

function echoed() {
  const sent = metadata();
  sent.set(...INITIAL);
  sent.set(...TRAILING);
  return sent;
}

function assertEchoed(headers, trailers) {
  assert.deepEqual(headers.get(INITIAL[0]), [INITIAL[1]]);
  assert.deepEqual(trailers.get(TRAILING[0]), [TRAILING[1]]);
}

function options() {
  return { deadline: Date.now() + TIMEOUT };
}

function unary(client, method, request, sent = metadata()) {
  return new Promise((resolve, reject) => {
    let headers;
    let response;
    const call = client[method](request, sent, options(), (error, received) => {
      if (error) reject(error);
      else response = received;
    });
    call.on('metadata', (received) => (headers = received));
    call.on('status', (status) => {
      if (status.code === grpc.status.OK) setImmediate(() => resolve({ response, headers, trailers: status.metadata }));
    });
  });
}

async function large(fields) {
  const { response } = await unary(test, 'UnaryCall', largeRequest(fields));
  assert.ok(response.payload.body.equals(Buffer.alloc(314159)));
}

function largeRequest(fields) {
  return { response_size: 314159, payload: payload(271828), ...fields };
}

function sendAll(client, requests) {
  return new Promise((resolve, reject) => {
    const call = client.StreamingInputCall(metadata(), options(), (error, response) =>
      error ? reject(error) : resolve({ response }),
    );
    for (const request of requests) call.write(request);
    call.end();
  });
}

function output(sizes, sent) {
  const response_parameters = sizes.map((size) => ({ size }));
  return sent === undefined ? { response_parameters } : { response_parameters, payload: payload(sent) };
}

function payload(size) {
  return { body: Buffer.alloc(size) };
}

async function sizesOf(call) {
  const sizes = [];
  for await (const response of call) sizes.push(response.payload.body.length);
  return sizes;
}

async function failsCompressed(call) {
  const error = await fails(call, 'UNIMPLEMENTED');
  assert.match(error.details, /identity/);
}

async function fails(call, code) {
  const error = await call.then(
    () => assert.fail('the call succeeded'),
    (error) => error,
  );
  if (error.code === undefined || error instanceof assert.AssertionError) throw error;
  is(error.code, code, error.details);
  return error;
}

function is(code, expected, details = '') {
  assert.equal(grpc.status[code], expected, `${grpc.status[code]}, not ${expected}: ${details}`);
}

async function main() {
  for (const [name, run] of Object.entries(cases)) {
    try {
      await run();
      console.log(name, 'ok');
    } catch (error) {
      process.exitCode = 1;
      console.log(name, String(error).split(/\s+/).join(' '));
      console.error(error);
    }
  }
  for (const client of [test, unknown, gzip]) client.close();
}

main();

// gRPC's interoperability service, on gRPC's own library for Node.
//
// Prints its port, then lines about streams with the header x-case. The library compresses no responses, and a handler cannot see
// whether a request was compressed: `compressed` and `expect_compressed` have no effect.

'use strict';

const { setTimeout: sleep } = require('node:timers/promises');

const grpc = require('@grpc/grpc-js');
const { TestService } = require('./contract');

const INITIAL = 'x-grpc-test-echo-initial';
const TRAILING = 'x-grpc-test-echo-trailing-bin';

// The library answers what is missing here with UNIMPLEMENTED.
const handlers = {
  EmptyCall(call, callback) {
    callback(null, {});
  },

  UnaryCall(call, callback) {
    const trailers = echoMetadata(call);
    const { response_size: size, response_status: status } = call.request;
    if (status?.code) callback({ code: status.code, details: status.message });
    else callback(null, { payload: payload(size) }, trailers);
  },

  async StreamingOutputCall(call) {
    await respond(call, call.request);
    call.end();
  },

  StreamingInputCall(call, callback) {
    const finish = observe(call);
    let size = 0;
    call.on('data', (request) => (size += request.payload.body.length));
    atEnd(call, () => {
      finish();
      callback(null, { aggregated_payload_size: size });
    });
  },

  FullDuplexCall(call) {
    const finish = observe(call);
    const trailers = echoMetadata(call);
    let responses = Promise.resolve();
    let failed = false;
    call.on('data', (request) => {
      const status = request.response_status;
      if (status?.code) {
        failed = true;
        finish();
        call.emit('error', { code: status.code, details: status.message });
      } else {
        responses = responses.then(() => respond(call, request));
      }
    });
    atEnd(call, async () => {
      await responses;
      finish();
      if (!failed) call.end(trailers);
    });
  },
};

// The library ends a cancelled stream like a finished one, and reports right afterwards that it was cancelled.
function atEnd(call, run) {
  call.on('end', () =>
    setImmediate(() => {
      if (!call.cancelled) run();
    }),
  );
}

// Prints when a call with the header x-case begins, and when it is cancelled; the library reports the end of every call as a
// cancellation. Returns what is called at a regular end.
function observe(call) {
  const [name] = call.metadata.get('x-case');
  let finished = name === undefined;
  if (!finished) console.log('begin', name);
  call.on('cancelled', () => {
    if (!finished) console.log('cancelled', name);
  });
  return () => (finished = true);
}

// Sends the header, and returns the trailers.
function echoMetadata(call) {
  const headers = new grpc.Metadata();
  for (const value of call.metadata.get(INITIAL)) headers.add(INITIAL, value);
  call.sendMetadata(headers);
  const trailers = new grpc.Metadata();
  for (const value of call.metadata.get(TRAILING)) trailers.add(TRAILING, value);
  return trailers;
}

async function respond(call, request) {
  for (const { size, interval_us: interval } of request.response_parameters) {
    if (interval > 0) await sleep(interval / 1000);
    call.write({ payload: payload(size) });
  }
}

function payload(size) {
  return { body: Buffer.alloc(size) };
}

const server = new grpc.Server();
server.addService(TestService.service, handlers);
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port);
});

// Places and reads orders from Node.
//
// Timeouts, retries and balancing are not decided here: they come from ../order.json, which is generated from the contract,
// and gRPC's own library carries them out. Messages and stubs come from proto/ when the program starts.

'use strict';

const { randomUUID } = require('node:crypto');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const SERVICE_CONFIG = path.join(__dirname, '..', 'order.json');
const PROTO = path.join(__dirname, '..', '..', '..', 'proto');
const USAGE = 'usage: orders.js --token TOKEN [--target ADDRESS] [--deadline SECONDS] place | get ID';

async function main() {
  const { token, target, deadline, command, id } = parseArguments();
  const { OrderService } = loadContract().order.v1;
  const orders = new OrderService(target, grpc.credentials.createInsecure(), {
    'grpc.service_config': readFileSync(SERVICE_CONFIG, 'utf8'),
    // The file is the only source: no TXT record of the name service replaces it.
    'grpc.service_config_disable_resolution': 1,
  });
  const caller = { token, deadline };
  try {
    const answer =
      command === 'place'
        ? await call(orders, 'PlaceOrder', anOrder(), caller)
        : await call(orders, 'GetOrder', { id }, caller);
    console.log(JSON.stringify(answer.order, null, 2));
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  } finally {
    orders.close();
  }
}

function parseArguments() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      target: { type: 'string', default: '127.0.0.1:7101' },
      token: { type: 'string' },
      deadline: { type: 'string' },
    },
  });
  const [command, id] = positionals;
  if (!values.token || !(command === 'place' || (command === 'get' && id))) {
    console.error(USAGE);
    process.exit(2);
  }
  return { ...values, command, id };
}

function loadContract() {
  const definition = protoLoader.loadSync('order/v1/order_service.proto', {
    includeDirs: [PROTO, path.join(PROTO, 'third_party')],
    keepCase: true,
    longs: String,
    enums: String,
  });
  return grpc.loadPackageDefinition(definition);
}

// What a retry sends again is this very message: by its request_id the server knows that it is the same order.
function anOrder() {
  return {
    request_id: randomUUID(),
    patient_id: 'PT-0042',
    lines: [
      {
        code: '85123A',
        description: 'Heart holder',
        quantity: { value: '6' },
        amount: { currency_code: 'AED', units: 15, nanos: 300000000 },
      },
    ],
    payment_method: 'tok_visa',
  };
}

// Calls, and says on stderr how it ended and after how long, retries included.
function call(client, method, request, { token, deadline }) {
  const started = performance.now();
  const metadata = new grpc.Metadata();
  metadata.set('authorization', `Bearer ${token}`);
  const options = deadline ? { deadline: Date.now() + 1000 * Number(deadline) } : {};
  return new Promise((resolve, reject) => {
    client[method](request, metadata, options, (error, answer) => {
      const elapsed = ((performance.now() - started) / 1000).toFixed(3);
      if (error) {
        reject(new Error(`${grpc.status[error.code]} after ${elapsed} s: ${error.details}`));
      } else {
        console.error(`OK after ${elapsed} s`);
        resolve(answer);
      }
    });
  });
}

main();

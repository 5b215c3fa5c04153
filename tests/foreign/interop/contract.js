// gRPC's interoperability contract, read from tests/proto when a program starts.

'use strict';

const path = require('node:path');

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const ROOT = path.join(__dirname, '..', '..', '..');

const definition = protoLoader.loadSync('src/proto/grpc/testing/test.proto', {
  includeDirs: ['tests/proto', 'proto', 'proto/third_party'].map((folder) => path.join(ROOT, folder)),
  keepCase: true,
  defaults: true,
});

module.exports = grpc.loadPackageDefinition(definition).grpc.testing;

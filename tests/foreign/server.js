// A server of gRPC's own library for Node, with its default settings.
//
// Answers ListOrders with no orders after the seconds given as argument. Prints its port, then a line for each call.

'use strict';

const grpc = require('@grpc/grpc-js');

const seconds = Number(process.argv[2]);
const same = (bytes) => bytes;
const service = {
  ListOrders: {
    path: '/order.v1.OrderService/ListOrders',
    requestStream: false,
    responseStream: false,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  },
};

function ListOrders(call, callback) {
  console.log('call');
  setTimeout(() => callback(null, Buffer.alloc(0)), seconds * 1000);
}

const server = new grpc.Server();
server.addService(service, { ListOrders });
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(port);
});

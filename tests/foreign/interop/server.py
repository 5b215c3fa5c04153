"""gRPC's interoperability service, on gRPC's own library for Python.

Prints its port, then lines about streams with the header x-case. A handler cannot see whether a request was compressed, so
expect_compressed is not checked.
"""

import threading
import time
from concurrent import futures

import grpc
from contract import empty, messages, services

INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"


class TestService(services.TestServiceServicer):
    """UnimplementedCall and what no case calls are left as they were generated: UNIMPLEMENTED."""

    def EmptyCall(self, request, context):
        return empty.Empty()

    def UnaryCall(self, request, context):
        echo_metadata(context)
        echo_status(request, context)
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        return messages.SimpleResponse(payload=payload(request.response_size))

    def StreamingOutputCall(self, request, context):
        if any(parameters.compressed.value for parameters in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        yield from respond(request, context)

    def StreamingInputCall(self, requests, context):
        size = sum(len(request.payload.body) for request in observed(requests, context))
        return messages.StreamingInputCallResponse(aggregated_payload_size=size)

    def FullDuplexCall(self, requests, context):
        echo_metadata(context)
        for request in observed(requests, context):
            echo_status(request, context)
            yield from respond(request, context)


def observed(requests, context):
    """The requests. Prints when a call with the header x-case begins, and when it is cancelled.

    The library may end the requests of a cancelled call as if they were complete. Such a call is never complete: it waits until
    it is cancelled.
    """
    name = dict(context.invocation_metadata()).get("x-case")
    if name is None:
        yield from requests
        return
    cancelled = threading.Event()

    def report():
        print("cancelled", name, flush=True)
        cancelled.set()

    print("begin", name, flush=True)
    if not context.add_callback(report):
        report()
    yield from requests
    cancelled.wait()


def echo_metadata(context):
    received = dict(context.invocation_metadata())
    if INITIAL in received:
        context.send_initial_metadata(((INITIAL, received[INITIAL]),))
    if TRAILING in received:
        context.set_trailing_metadata(((TRAILING, received[TRAILING]),))


def echo_status(request, context):
    status = request.response_status
    if status.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)


def respond(request, context):
    for parameters in request.response_parameters:
        time.sleep(parameters.interval_us / 1e6)
        if not parameters.compressed.value:
            context.disable_next_message_compression()
        yield messages.StreamingOutputCallResponse(payload=payload(parameters.size))


def payload(size):
    return messages.Payload(body=bytes(size))


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    services.add_TestServiceServicer_to_server(TestService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


main()

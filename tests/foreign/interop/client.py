"""gRPC's interoperability cases, by gRPC's own library for Python, against a server that takes and sends no compression.

Argument: the server's address. Prints a line for each case: its name, and `ok` or what was wrong.
"""

import queue
import sys
import traceback

import grpc
from contract import empty, messages, services

# Seconds. A call that takes longer is broken.
TIMEOUT = 120
MESSAGE = "test status message"
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
SIZES = ((27182, 31415), (8, 9), (1828, 2653), (45904, 58979))
ECHOED = (("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))


class Cases:
    def __init__(self, channel):
        self.test = services.TestServiceStub(channel)
        self.unknown = services.UnimplementedServiceStub(channel)
        self.options = {"timeout": TIMEOUT}

    def empty_unary(self):
        equal(self.test.EmptyCall(empty.Empty(), **self.options), empty.Empty())

    def large_unary(self):
        self.large()

    def client_streaming(self):
        requests = [input_request(size) for size, _ in SIZES]
        equal(self.test.StreamingInputCall(iter(requests), **self.options).aggregated_payload_size, 74922)

    def server_streaming(self):
        responses = self.test.StreamingOutputCall(output_request(*(size for _, size in SIZES)), **self.options)
        equal([len(response.payload.body) for response in responses], [size for _, size in SIZES])

    def ping_pong(self):
        with Requests() as requests:
            responses = self.test.FullDuplexCall(requests, **self.options)
            for sent, received in SIZES:
                requests.send(output_request(received, payload=sent))
                equal(len(next(responses).payload.body), received)
        equal(list(responses), [])

    def empty_stream(self):
        equal(list(self.test.FullDuplexCall(iter(()), **self.options)), [])

    def cancel_after_begin(self):
        with Requests() as requests:
            call = self.test.StreamingInputCall.future(requests, **self.options)
            call.cancel()
            equal(call.code(), grpc.StatusCode.CANCELLED)

    def cancel_after_first_response(self):
        with Requests() as requests:
            responses = self.test.FullDuplexCall(requests, **self.options)
            requests.send(output_request(31415, payload=27182))
            equal(len(next(responses).payload.body), 31415)
            responses.cancel()
            equal(responses.code(), grpc.StatusCode.CANCELLED)

    def timeout_on_sleeping_server(self):
        with Requests() as requests:
            responses = self.test.FullDuplexCall(requests, **{**self.options, "timeout": 0.001})
            requests.send(output_request(payload=27182))
            fails(lambda: list(responses), grpc.StatusCode.DEADLINE_EXCEEDED)

    def status_code_and_message(self):
        status = messages.EchoStatus(code=2, message=MESSAGE)
        self.fails_with(messages.SimpleRequest(response_status=status), MESSAGE)
        requests = iter([messages.StreamingOutputCallRequest(response_status=status)])
        error = fails(lambda: list(self.test.FullDuplexCall(requests, **self.options)), grpc.StatusCode.UNKNOWN)
        equal(error.details(), MESSAGE)

    def special_status_message(self):
        status = messages.EchoStatus(code=2, message=SPECIAL_MESSAGE)
        self.fails_with(messages.SimpleRequest(response_status=status), SPECIAL_MESSAGE)

    def custom_metadata(self):
        options = {**self.options, "metadata": ECHOED}
        response, call = self.test.UnaryCall.with_call(large_request(), **options)
        equal(len(response.payload.body), 314159)
        echoes(call)
        call = self.test.FullDuplexCall(iter([output_request(314159, payload=271828)]), **options)
        equal([len(response.payload.body) for response in call], [314159])
        echoes(call)

    def unimplemented_method(self):
        fails(lambda: self.test.UnimplementedCall(empty.Empty(), **self.options), grpc.StatusCode.UNIMPLEMENTED)

    def unimplemented_service(self):
        fails(lambda: self.unknown.UnimplementedCall(empty.Empty(), **self.options), grpc.StatusCode.UNIMPLEMENTED)

    def client_compressed_unary(self):
        """The server has no encoding but identity: what is compressed is UNIMPLEMENTED (compression.md)."""
        probe = large_request(expect_compressed=messages.BoolValue(value=True))
        fails(lambda: self.test.UnaryCall(probe, **self.options), grpc.StatusCode.INVALID_ARGUMENT)
        fails_compressed(lambda: self.test.UnaryCall(probe, compression=grpc.Compression.Gzip, **self.options))
        self.large(expect_compressed=messages.BoolValue(value=False))

    def client_compressed_streaming(self):
        """As above: the first compressed message ends the stream."""
        probe = input_request(27182, expect_compressed=True)
        fails(lambda: self.test.StreamingInputCall(iter([probe]), **self.options), grpc.StatusCode.INVALID_ARGUMENT)
        requests = iter([probe, input_request(45904, expect_compressed=False)])
        fails_compressed(
            lambda: self.test.StreamingInputCall(requests, compression=grpc.Compression.Gzip, **self.options)
        )

    def server_compressed_unary(self):
        """The server compresses nothing; both responses arrive."""
        for compressed in (True, False):
            self.large(response_compressed=messages.BoolValue(value=compressed))

    def server_compressed_streaming(self):
        parameters = [
            messages.ResponseParameters(size=size, compressed=messages.BoolValue(value=compressed))
            for size, compressed in ((31415, True), (92653, False))
        ]
        request = messages.StreamingOutputCallRequest(response_parameters=parameters)
        responses = self.test.StreamingOutputCall(request, **self.options)
        equal([len(response.payload.body) for response in responses], [31415, 92653])

    def large(self, **fields):
        response = self.test.UnaryCall(large_request(**fields), **self.options)
        equal(response.payload, messages.Payload(body=bytes(314159)))

    def fails_with(self, request, message):
        error = fails(lambda: self.test.UnaryCall(request, **self.options), grpc.StatusCode.UNKNOWN)
        equal(error.details(), message)


class Requests:
    """The requests of a stream, as they are sent."""

    END = object()

    def __init__(self):
        self.queue = queue.SimpleQueue()

    def send(self, request):
        self.queue.put(request)

    def __iter__(self):
        return self

    def __next__(self):
        request = self.queue.get()
        if request is self.END:
            raise StopIteration
        return request

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.queue.put(self.END)


def large_request(**fields):
    return messages.SimpleRequest(response_size=314159, payload=messages.Payload(body=bytes(271828)), **fields)


def input_request(size, expect_compressed=None):
    request = messages.StreamingInputCallRequest(payload=messages.Payload(body=bytes(size)))
    if expect_compressed is not None:
        request.expect_compressed.value = expect_compressed
    return request


def output_request(*sizes, payload=None):
    request = messages.StreamingOutputCallRequest(
        response_parameters=[messages.ResponseParameters(size=size) for size in sizes]
    )
    if payload is not None:
        request.payload.body = bytes(payload)
    return request


def echoes(call):
    equal(dict(call.initial_metadata()).get(ECHOED[0][0]), ECHOED[0][1])
    equal(dict(call.trailing_metadata()).get(ECHOED[1][0]), ECHOED[1][1])


def fails_compressed(call):
    error = fails(call, grpc.StatusCode.UNIMPLEMENTED)
    assert "identity" in error.details(), error.details()


def fails(call, code):
    try:
        response = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        return error
    raise AssertionError(f"succeeded: {response!r:.200}")


def equal(found, expected):
    assert found == expected, f"{found!r:.200} is not {expected!r:.200}"


def main():
    [target] = sys.argv[1:]
    failed = False
    with grpc.insecure_channel(target) as channel:
        cases = Cases(channel)
        private = ("large", "fails_with")
        for name in (name for name in vars(Cases) if not name.startswith("_") and name not in private):
            try:
                getattr(cases, name)()
                print(name, "ok", flush=True)
            except Exception as error:
                failed = True
                print(name, " ".join(repr(error).split()), flush=True)
                traceback.print_exc()
    sys.exit(failed)


main()

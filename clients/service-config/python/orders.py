"""Places and reads orders from Python.

Timeouts, retries and balancing are not decided here: they come from ../order.json, which is generated from the contract,
and gRPC's own library carries them out. Messages and stubs come from proto/ when the program starts.
"""

import argparse
import pathlib
import sys
import time
import uuid

import grpc
from google.protobuf import json_format

HERE = pathlib.Path(__file__).resolve().parent
SERVICE_CONFIG = HERE.parent / "order.json"
PROTO = HERE.parents[2] / "proto"

sys.path += [str(PROTO), str(PROTO / "third_party")]
messages, services = grpc.protos_and_services("order/v1/order_service.proto")


def main():
    arguments = parse_arguments()
    options = [
        ("grpc.service_config", SERVICE_CONFIG.read_text()),
        # The file is the only source: no TXT record of the name service replaces it.
        ("grpc.service_config_disable_resolution", 1),
    ]
    with grpc.insecure_channel(arguments.target, options) as channel:
        orders = services.OrderServiceStub(channel)
        if arguments.command == "place":
            answer = call(orders.PlaceOrder, an_order(), arguments)
        else:
            answer = call(orders.GetOrder, messages.GetOrderRequest(id=arguments.id), arguments)
    print(json_format.MessageToJson(answer.order, preserving_proto_field_name=True))


def parse_arguments():
    parser = argparse.ArgumentParser(description="Places and reads orders.")
    parser.add_argument("--target", default="127.0.0.1:7101", help="the order service (default: %(default)s)")
    parser.add_argument("--token", required=True, help="who calls: a JSON Web Token")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="give up sooner than the contract says")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("place", help="place an order")
    commands.add_parser("get", help="read an order").add_argument("id")
    return parser.parse_args()


def an_order():
    """What a retry sends again is this very message: by its request_id the server knows that it is the same order."""
    return json_format.ParseDict(
        {
            "request_id": str(uuid.uuid4()),
            "patient_id": "PT-0042",
            "lines": [
                {
                    "code": "85123A",
                    "description": "Heart holder",
                    "quantity": {"value": "6"},
                    "amount": {"currency_code": "AED", "units": 15, "nanos": 300000000},
                }
            ],
            "payment_method": "tok_visa",
        },
        messages.PlaceOrderRequest(),
    )


def call(method, request, arguments):
    """Calls, and says on stderr how it ended, after how long and, of an answered call, how many retries."""
    started = time.monotonic()
    try:
        answer, ended = method.with_call(
            request,
            timeout=arguments.deadline,
            metadata=[("authorization", f"Bearer {arguments.token}")],
        )
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name} after {time.monotonic() - started:.3f} s: {error.details()}")
    retries = dict(ended.initial_metadata()).get("grpc-previous-rpc-attempts", 0)
    print(f"OK after {time.monotonic() - started:.3f} s, {retries} retries", file=sys.stderr)
    return answer


if __name__ == "__main__":
    main()

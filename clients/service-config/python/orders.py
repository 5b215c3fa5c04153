"""Places and reads orders from Python.

Timeouts, retries and balancing are not decided here: they come from ../order.json, which is generated from the contract,
and gRPC's own library carries them out. Messages and stubs come from proto/ when the program starts.
"""

import argparse
import json
import math
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
    service_config, timeouts = read_service_config()
    options = [
        ("grpc.service_config", service_config),
        # The file is the only source: no TXT record of the name service replaces it.
        ("grpc.service_config_disable_resolution", 1),
    ]
    with grpc.insecure_channel(arguments.target, options) as channel:
        orders = services.OrderServiceStub(channel)
        if arguments.command == "place":
            deadline = min(timeouts["PlaceOrder"], arguments.deadline)
            answer = call(orders.PlaceOrder, an_order(), deadline, arguments.token)
        else:
            deadline = min(timeouts["GetOrder"], arguments.deadline)
            answer = call(orders.GetOrder, messages.GetOrderRequest(id=arguments.id), deadline, arguments.token)
    print(json_format.MessageToJson(answer.order, preserving_proto_field_name=True))


def parse_arguments():
    parser = argparse.ArgumentParser(description="Places and reads orders.")
    parser.add_argument("--target", default="127.0.0.1:7101", help="the order service (default: %(default)s)")
    parser.add_argument("--token", required=True, help="who calls: a JSON Web Token")
    parser.add_argument(
        "--deadline", type=float, default=math.inf, metavar="SECONDS", help="give up sooner than the contract says"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("place", help="place an order")
    commands.add_parser("get", help="read an order").add_argument("id")
    return parser.parse_args()


def read_service_config():
    """The service config without its timeouts, and these by method, in seconds.

    The C core ends a call up to two seconds before its service config's timeout and tells the server nothing of it
    (https://github.com/grpc/grpc/issues/34547). It keeps a deadline that comes with the call.
    """
    config = json.loads(SERVICE_CONFIG.read_text())
    timeouts = {}
    for method in config["methodConfig"]:
        timeout = float(method.pop("timeout").removesuffix("s"))
        timeouts.update({name["method"]: timeout for name in method["name"]})
    return json.dumps(config), timeouts


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


def call(method, request, deadline, token):
    """Calls, and says on stderr how it ended and after how long, retries included."""
    started = time.monotonic()
    try:
        answer = method(request, timeout=deadline, metadata=[("authorization", f"Bearer {token}")])
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name} after {time.monotonic() - started:.3f} s: {error.details()}")
    print(f"OK after {time.monotonic() - started:.3f} s", file=sys.stderr)
    return answer


if __name__ == "__main__":
    main()

"""A server of gRPC's own library for Python, with its default settings.

Answers ListOrders with no orders after the seconds given as argument. Prints its port, then a line for each call.
"""

import sys
import time
from concurrent import futures

import grpc


def main():
    seconds = float(sys.argv[1])

    def list_orders(request, context):
        print("call", flush=True)
        time.sleep(seconds)
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    methods = {"ListOrders": grpc.unary_unary_rpc_method_handler(list_orders)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("order.v1.OrderService", methods),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


main()

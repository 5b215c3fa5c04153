"""Messages and stubs of gRPC's interoperability service, made from tests/proto when a program starts."""

import pathlib
import sys

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[3]

sys.path += [str(ROOT / folder) for folder in ("tests/proto", "proto", "proto/third_party")]
messages = grpc.protos("src/proto/grpc/testing/messages.proto")
empty = grpc.protos("src/proto/grpc/testing/empty.proto")
services = grpc.services("src/proto/grpc/testing/test.proto")

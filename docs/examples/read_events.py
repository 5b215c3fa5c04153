"""Reads confirmed orders from NATS JetStream, each once: python read_events.py [nats://host:port]"""

import asyncio
import pathlib
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from order.v1.events_pb2 import OrderConfirmed

SEEN = pathlib.Path("seen-events.txt")


async def main(server: str) -> None:
    connection = await nats.connect(server)
    stream = connection.jetstream()
    orders = await stream.pull_subscribe(
        "evt.order.order.confirmed",
        durable="python-reader",
        stream="EVENTS",
        config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=30, max_deliver=8),
    )
    seen = set(SEEN.read_text().split()) if SEEN.exists() else set()
    while True:
        try:
            messages = await orders.fetch(100, timeout=5)
        except TimeoutError:
            continue  # Nothing has happened.
        for message in messages:
            event = message.headers["ce-id"]
            if event not in seen:
                order = OrderConfirmed.FromString(message.data)
                print(message.headers["ce-time"], message.headers["ce-facility"], order.order_id, flush=True)
                # The effect and this note belong into one transaction.
                with SEEN.open("a") as file:
                    file.write(event + "\n")
                seen.add(event)
            await message.ack()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222"))

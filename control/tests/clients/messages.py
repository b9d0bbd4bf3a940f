"""Data packets of both kinds with and without destination, RPC, text and byte streams, and a duplicate identity."""

import asyncio

from session import Member, new_room_name, run, say, until

MANY = 200


def is_data(topic: str):
    return lambda packet: packet.topic == topic


def payloads(member: Member, topic: str) -> list[bytes]:
    return [args[0].data for name, args in member.events if name == "data_received" and args[0].topic == topic]


async def scenario():
    room = new_room_name("messages")
    alice, bob, carol = [await Member(name).join(room) for name in ("alice", "bob", "carol")]
    await until(lambda: len(alice.room.remote_participants) == 2, "alice sees both")

    for number in range(MANY):
        await alice.me.publish_data(number.to_bytes(2, "big") + bytes(1_000), reliable=True, topic="many")
    await until(lambda: len(payloads(bob, "many")) >= MANY, f"{MANY} reliable packets arrive")
    order = [int.from_bytes(data[:2], "big") for data in payloads(bob, "many")]
    assert order == list(range(MANY)), f"lost, doubled or out of order: {order[:20]}"
    packet = bob.heard("data_received", is_data("many"))[0]
    assert packet.participant.identity == "alice", packet.participant

    for number in range(20):
        await bob.me.publish_data(b"lossy %d" % number, reliable=False, topic="lossy")
        await asyncio.sleep(0.02)
    await until(lambda: len(payloads(alice, "lossy")) >= 15, "lossy packets arrive on a line without loss")

    await alice.me.publish_data(b"only carol", destination_identities=["carol"], topic="secret")
    await alice.me.publish_data(b"all", topic="all")
    await carol.hears("data_received", is_data("secret"))
    await bob.hears("data_received", is_data("all"))
    assert not payloads(bob, "secret"), "a packet reached one it was not for"
    assert not payloads(alice, "all"), "a packet came back to its sender"
    say("data passed")

    @bob.me.register_rpc_method("shout")
    async def shout(data):
        assert data.caller_identity == "alice"
        return data.payload.upper()

    answer = await asyncio.wait_for(alice.me.perform_rpc(destination_identity="bob", method="shout", payload="hello"), 15)
    assert answer == "HELLO", answer
    try:
        await asyncio.wait_for(alice.me.perform_rpc(destination_identity="bob", method="none", payload=""), 15)
        raise AssertionError("a method that nobody registered was answered")
    except Exception as error:
        assert getattr(error, "code", None) == 1400, repr(error)
    say("rpc passed")

    texts, files = asyncio.Queue(), asyncio.Queue()
    bob.room.register_text_stream_handler("chat", lambda reader, who: texts.put_nowait((reader, who)))
    bob.room.register_byte_stream_handler("file", lambda reader, who: files.put_nowait((reader, who)))
    long_text = "0123456789 äöü " * 4_000
    await alice.me.send_text(long_text, topic="chat")
    reader, who = await asyncio.wait_for(texts.get(), 15)
    assert who == "alice" and await asyncio.wait_for(reader.read_all(), 15) == long_text
    content = bytes(range(256)) * 400
    writer = await alice.me.stream_bytes("noise.bin", topic="file", total_size=len(content))
    await writer.write(content)
    await writer.aclose()
    reader, who = await asyncio.wait_for(files.get(), 15)
    received = b""
    async with asyncio.timeout(15):
        async for chunk in reader:
            received += chunk
    assert received == content, f"{len(received)} of {len(content)} bytes"
    say("streams passed")

    mark = bob.mark()
    await Member("carol").join(room)
    (reason,) = await carol.hears("disconnected")
    assert reason == 2, f"disconnected for {reason}, not for DUPLICATE_IDENTITY"
    await alice.leave()
    await bob.hears("participant_disconnected", lambda who: who.identity == "alice", since=mark, within=5)
    await bob.leave()


run(scenario())

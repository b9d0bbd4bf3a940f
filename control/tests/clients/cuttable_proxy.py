"""A way to lose a signal connection without the client's doing."""

import asyncio
from urllib.parse import urlsplit


class CuttableProxy:
    """A TCP proxy before the server's signal port that drops its connections when told."""

    def __init__(self, url: str):
        target = urlsplit(url)
        self._target = (target.hostname, target.port)
        self._open: set[asyncio.StreamWriter] = set()
        self.paths: list[str] = []

    async def start(self) -> str:
        """Listens, and returns the URL to join through."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader, writer):
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        request_line = await reader.readline()
        self.paths.append(request_line.split(b" ")[1].split(b"?")[0].decode() if b" " in request_line else "")
        upstream_writer.write(request_line)
        pair = {writer, upstream_writer}
        self._open |= pair
        await asyncio.gather(self._pump(reader, upstream_writer), self._pump(upstream_reader, writer))
        self._open -= pair

    @staticmethod
    async def _pump(reader, writer):
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def cut(self) -> None:
        """Resets every connection; new ones are taken as before."""
        for writer in list(self._open):
            writer.transport.abort()
        self._open.clear()

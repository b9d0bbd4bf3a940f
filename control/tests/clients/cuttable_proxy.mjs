// A way to lose a signal connection without the client's doing.
import { once } from 'node:events';
import net from 'node:net';

/** A TCP proxy before the server's signal port that drops its connections when told. */
export class CuttableProxy {
  #open = new Set();
  paths = [];

  /** Listens, and returns the URL to join through. */
  async start(url) {
    const { hostname: host, port } = new URL(url);
    this.server = net.createServer((client) => {
      const upstream = net.connect({ host, port });
      client.once('data', (first) => this.paths.push(first.toString('latin1').split(' ')[1]?.split('?')[0]));
      for (const socket of [client, upstream]) {
        this.#open.add(socket);
        socket.on('error', () => {});
        socket.on('close', () => {
          this.#open.delete(socket);
          client.destroy();
          upstream.destroy();
        });
      }
      client.pipe(upstream).pipe(client);
    });
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return `ws://127.0.0.1:${this.server.address().port}`;
  }

  /** Resets every connection; new ones are taken as before. */
  cut() {
    for (const socket of this.#open) socket.resetAndDestroy();
  }
}

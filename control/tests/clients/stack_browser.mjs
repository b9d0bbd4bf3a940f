// livekit-client in a browser as publisher or viewer.
//
// stack_browser.mjs [--browser chromium|firefox] [--sdk PACKAGE] publish|view ...
import assert from 'node:assert/strict';
import { launch, servePage } from './chromium.mjs';
import { CuttableProxy } from './cuttable_proxy.mjs';
import { openFirefox } from './firefox.mjs';
import { main, pause } from './stack.mjs';

const LISTEN_EVERY_MS = 50;

async function openChromium(url) {
  const browser = await launch();
  const page = await (await browser.newContext({ permissions: ['camera', 'microphone'] })).newPage();
  page.on('pageerror', (error) => console.log(`page: ${error}`));
  page.on('console', (line) => ['warning', 'error'].includes(line.type()) && console.log(`page: ${line.text()}`));
  await page.goto(url);
  return {
    call: (method, ...args) => page.evaluate(([name, values]) => window.client[name](...values), [method, args]),
    close: () => browser.close(),
  };
}

class Browser {
  resumes = true;
  otherLeft = false;
  detail = {};
  #proxy = new CuttableProxy();
  #reconnected = 0;

  constructor(options) { this.options = options; }

  frames() { return this.page.call('frames'); }
  packets() { return this.page.call('packets'); }
  send(topic, bytes) { return this.page.call('send', topic, Buffer.from(bytes).toString()); }
  publish() { return this.page.call('publish'); }

  async join() {
    const { url, token, mode, browser, sdk } = this.options;
    const page = await servePage('./stack_page.js', sdk);
    this.page = await { chromium: openChromium, firefox: openFirefox }[browser](page);
    this.detail.version = await this.page.call('version');
    await this.page.call('join', await this.#proxy.start(url), token, { singlePeerConnection: mode === 'v1' });
    const wanted = { v0: '/rtc', v1: '/rtc/v1' }[mode];
    assert.equal(this.#proxy.paths.find((path) => path.startsWith('/rtc')), wanted);
    this.#listen();
  }

  async resume() {
    const before = await this.page.call('sid');
    const count = this.#reconnected;
    this.#proxy.cut();
    while (this.#reconnected === count) await pause(LISTEN_EVERY_MS);
    assert.equal(await this.page.call('sid'), before, 'the sid stays');
  }

  async leave() {
    this.left = true;
    await this.page?.call('leave');
    await this.page?.close();
  }

  async #listen() {
    for (; !this.left; await pause(LISTEN_EVERY_MS)) {
      const { data, left, reconnected, log } = await this.page.call('heard').catch((error) => ({ data: [], log: [`${error}`] }));
      for (const line of log) console.log(`page: ${line}`);
      this.otherLeft ||= left ?? false;
      this.#reconnected = reconnected ?? this.#reconnected;
      for (const [topic, text] of data) {
        const [, before, rest] = topic === '' ? text.match(/^(\w+)\n(.*)$/s) ?? [] : [];
        this.exchange.received(before ?? topic, Buffer.from(rest ?? text));
      }
    }
  }
}

await main((options) => new Browser(options), {
  browser: { type: 'string', default: 'chromium' }, sdk: { type: 'string', default: 'livekit-client' },
});

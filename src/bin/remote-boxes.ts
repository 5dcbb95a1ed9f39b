// How a box's functions reach boxes: the client library over the box's own tor client, one isolation for each
// function; the box itself by a connection to its own listener. Wires box/host/bento-remote.ts to client/.

import net from "node:net";
import type { Duplex } from "node:stream";
import type { RemoteBox, RemoteBoxes, RemoteRoutes, RemoteTarget } from "../box/host/bento-remote.ts";
import { BoxClient, type Dial, type SessionEvent } from "../client/client.ts";
import { torDial } from "../client/tor-dial.ts";

export function remoteBoxes(routes: RemoteRoutes): RemoteBoxes {
  return (target) => new RemoteClient(target, routes);
}

class RemoteClient implements RemoteBox {
  readonly #client: BoxClient;
  #reached = false;

  constructor({ address, isolation, route }: RemoteTarget, routes: RemoteRoutes) {
    const dial = route === "self" ? selfDial(routes) : ownTorDial(routes);
    this.#client = new BoxClient({
      address,
      isolation,
      clock: routes.clock,
      dial: async (to, options) => {
        const stream = await dial(to, options);
        this.#reached = true;
        return stream;
      },
    });
  }

  get wasReached(): boolean {
    return this.#reached;
  }

  info: RemoteBox["info"] = (options) => this.#client.info(options);
  policy: RemoteBox["policy"] = (options) => this.#client.policy(options);
  store: RemoteBox["store"] = (pack, options) => this.#client.store(pack, options);
  exec: RemoteBox["exec"] = (token, invocation, options) => this.#client.exec(token, invocation, options);
  close: RemoteBox["close"] = (instance, options) => this.#client.close(instance, options);
  shutdown: RemoteBox["shutdown"] = (token, options) => this.#client.shutdown(token, options);
  run: RemoteBox["run"] = (what, invocation, { onResumed, ...options }) =>
    this.#client.run(what, invocation, { ...options, onEvent: onlyResumed(onResumed) });
  open: RemoteBox["open"] = (instance, { onResumed, ...options }) =>
    this.#client.open(instance, { ...options, onEvent: onlyResumed(onResumed) });

  [Symbol.dispose](): void {
    this.#client[Symbol.dispose]();
  }
}

function onlyResumed(onResumed: () => void): (event: SessionEvent) => void {
  return (event) => {
    if (event.kind === "resumed") onResumed();
  };
}

/** Names and addresses go to Tor as they stand; this machine neither resolves nor connects to any of them. */
function ownTorDial({ socks }: RemoteRoutes): Dial {
  return async (target, options) => torDial(await socks(options.signal))(target, options);
}

function selfDial({ self }: RemoteRoutes): Dial {
  return async (_target, { firstBytes, signal }) => {
    const to = self();
    const socket = net.connect(
      to.kind === "unix"
        ? { path: to.path, signal }
        : { host: to.host, port: to.port, noDelay: true, signal },
    );
    const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
    socket.once("connect", () => resolve(socket));
    socket.once("error", reject);
    if (firstBytes && firstBytes.length > 0) socket.write(firstBytes);
    try {
      return await promise;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  };
}

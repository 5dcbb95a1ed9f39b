// An onion service of src/onion alone, in a process of its own: what the library itself costs, without a box around it.
// argv: OwnServiceOptions as JSON. Writes its address and "\n" to stdout once it is published; ends when stdin does.

import { systemClock } from "../../src/base/clock.ts";
import { BentoError, messageOf } from "../../src/base/errors.ts";
import { Circuit, type IncomingStream } from "../../src/onion/circuit/circuit.ts";
import { CircuitBuilder } from "../../src/onion/circuit-builder.ts";
import { generateExpandedKey } from "../../src/onion/crypto/blinding.ts";
import { fetchNetwork } from "../../src/onion/directory/directory-client.ts";
import { fromHex } from "../../src/onion/fields.ts";
import { openLink } from "../../src/onion/link/tls-link.ts";
import { Paths } from "../../src/onion/paths.ts";
import { OnionService } from "../../src/onion/service/onion-service.ts";
import { meetClient } from "../../src/onion/service/rendezvous.ts";
import { serveTcp } from "../../test/support/serve-tcp.ts";

export interface OwnServiceOptions {
  /** `DirAuthority` lines. */
  readonly authorityLines: readonly string[];
  /** Where the directory is fetched. */
  readonly authority: { readonly host: string; readonly port: number; readonly fingerprint: string };
  /** Fingerprint of the service's only guard. */
  readonly firstHop: string;
  /** What streams are connected to. */
  readonly target: { readonly host: string; readonly port: number };
}

const READY_MS = 60_000;
const MEET_MS = 30_000;

const options = JSON.parse(process.argv[2] ?? "") as OwnServiceOptions;
process.stdin.once("close", () => process.exit(0)).resume();

const builder = new CircuitBuilder(openLink);
const network = await bootstrap();
const firstHop = network.relay(options.firstHop);
if (!firstHop) throw new BentoError("usage", `Cannot start service: no relay ${options.firstHop}`);
const paths = new Paths({ network, rules: { distinctSubnets: false }, firstHop });
const service = await OnionService.start(
  {
    builder,
    paths,
    identity: generateExpandedKey(),
    isTestingNetwork: true,
    onIntroduction: (material) => {
      meetClient(material, {
        builder,
        path: paths.to(material.rendezvousPoint),
        parameters: network.consensus.parameters,
        onStream: serve,
        signal: AbortSignal.timeout(MEET_MS),
      }).catch((error: unknown) => {
        process.stderr.write(`client not met: ${messageOf(error)}\n`);
      });
    },
  },
  { signal: AbortSignal.timeout(READY_MS) },
);
process.stdout.write(`${service.address}\n`);

async function bootstrap() {
  const { host, port, fingerprint } = options.authority;
  using link = await openLink({ host, port, identity: { rsa: fromHex(fingerprint) } });
  const circuit = await Circuit.createFast(link);
  const authorities = options.authorityLines.map((line) => ({
    identity: /v3ident=([0-9A-F]{40})/u.exec(line)?.[1] ?? "",
  }));
  return await fetchNetwork(circuit, { authorities, nowMs: systemClock.now() });
}

/** Bytes both ways, as C tor's services do it: to a TCP server. */
function serve(incoming: IncomingStream): void {
  serveTcp(incoming, options.target);
}

// The process that holds the link proxies of one network, so that they outlive the command that started it.
// argv: the path of a JSON file with an array of LinkProxyOptions; "--with-parent" to end when stdin closes.
// Writes "ready\n" to stdout when all of them listen.

import { readFile } from "node:fs/promises";
import { LinkProxy, type LinkProxyOptions } from "./link-proxy.ts";

const [configPath = "", mode] = process.argv.slice(2);
const links = JSON.parse(await readFile(configPath, "utf8")) as LinkProxyOptions[];
const proxies = await Promise.all(links.map(async (link) => LinkProxy.start(link)));
const stop = () => {
  void Promise.all(proxies.map(async (proxy) => proxy[Symbol.asyncDispose]())).then(() => process.exit(0));
};
process.once("SIGINT", stop);
process.once("SIGTERM", stop);
process.stdout.on("error", () => {
  // The command that started us has gone; what it wanted to hear no longer matters.
});
if (mode === "--with-parent") process.stdin.once("close", stop).resume();
process.stdout.write("ready\n");

// The command tree: names, arguments, options and help of everything `bento` does. Nothing heavy is imported here;
// each action loads its own code, so that `bento --version` and completions answer at once.

import { Command, InvalidArgumentError, Option } from "commander";
import type { Cli } from "../client/cli/cli.ts";

/** Runs one command and returns its exit code. */
export type Act = (perform: (cli: Cli) => Promise<number>) => Promise<void>;

const TOKEN_HELP = "saved name, @file, - (stdin), or the token itself";
const FN_HELP = "folder, file, package file, or name of a bundled function";
const CALL_HELP = "Python: call this, e.g. 'hello()'";
const ARGS_JSON_HELP = `arguments as JSON, e.g. '["a", 1]'`;
const LATER_HELP = "start and let go: a second box keeps the sealed answer until it is collected";
const BOX_HELP = "host:port, ….onion[:port], or a name from `net status`";

export function buildProgram(version: string, act: Act): Command {
  const program = new Command("bento")
    .description("Run small functions on boxes beside Tor relays.")
    .version(version, "-V, --version")
    .helpCommand("help [command]")
    .showSuggestionAfterError(true)
    .enablePositionalOptions()
    .addHelpText("after", "\nStart: bento demo   ·   Exit codes: docs/spec/exit-codes.md");
  addLocal(program, act);
  addNetwork(program, act);
  addFunctions(program, act);
  addAuthoring(program, act);
  addInstances(program, act);
  addFiles(program, act);
  addShards(program, act);
  addBalancers(program, act);
  addTools(program, act);
  return program;
}

function addLocal(program: Command, act: Act): void {
  json(program.command("demo"))
    .description("private Tor network, boxes and a web site; a page through it; leaves nothing running")
    .action(() => act(async (cli) => (await import("./commands/demo.ts")).demo(cli)));
  json(program.command("test"))
    .description("all checks and tests; ends with a line `N passed, N failed`")
    .argument("[filter...]", "only files whose path contains one of these")
    .option("--no-checks", "leave out format, lint, types and import rules")
    .option("--times", "name the slowest files")
    .option("--verbose", "name every test")
    .action((filters: string[], options) =>
      act(async (cli) => (await import("./commands/test.ts")).test(cli, filters, options)),
    );
  json(program.command("bench"))
    .description("benchmarks")
    .argument("[name...]", "only these")
    .option("--list", "name them")
    .action((names: string[], options) =>
      act(async (cli) => (await import("./commands/bench.ts")).bench(cli, names, options)),
    );
}

function addNetwork(program: Command, act: Act): void {
  const net = program.command("net").description("a private Tor network of real tor daemons on this machine");
  json(net.command("up"))
    .description("start it in the background, anew if it runs; returns when circuits work")
    .option("--dir <folder>", "where it keeps its files")
    .option("--boxes <n>", "boxes beside exit relays", count(0, 16), 2)
    .option("--relays <n>", "relays in all", count(3, 64))
    .option("--latency <ms>", "delay of each link, one way", count(0, 10_000))
    .option("--rate <mbit>", "rate of each link", rate)
    .option("--no-onion", "boxes at their relays' addresses alone, without onion services")
    .action((options) => act(async (cli) => (await import("./commands/net.ts")).up(cli, options)));
  for (const [name, description] of [
    ["status", "what runs, its boxes and its SOCKS address"],
    ["down", "stop it and clean up"],
  ] as const) {
    json(net.command(name))
      .description(description)
      .option("--dir <folder>", "where it keeps its files; that of the last `net up` when left out")
      .action((options) => act(async (cli) => (await import("./commands/net.ts"))[name](cli, options)));
  }
  const box = program.command("box").description("the server that runs functions");
  json(box.command("serve"))
    .description("run a box until it is told to stop")
    .requiredOption("--config <file>", "box.toml")
    .option("--log <level>", "debug, info, warn or error", "info")
    .addOption(new Option("--while-stdin", "end when standard input does").hideHelp())
    .addOption(new Option("--exit-without-relay <rules>", "for boxes of `bento fn`").hideHelp())
    .addOption(new Option("--inspector", "for boxes of `bento fn dev --inspect`").hideHelp())
    .action((options) => act(async (cli) => (await import("./commands/box.ts")).serve(cli, options)));
  json(box.command("check-config"))
    .description("read box.toml and say what it means or what is wrong")
    .argument("<file>", "box.toml")
    .action((file: string) => act(async (cli) => (await import("./commands/box.ts")).checkConfig(cli, file)));
  json(program.command("doctor"))
    .description("what this machine has and lacks for boxes, Tor and tests")
    .option("--socks <address>", "Tor's SOCKS port")
    .action((options) => act(async (cli) => (await import("./commands/doctor.ts")).doctor(cli, options)));
}

function addFunctions(program: Command, act: Act): void {
  reach(program.command("policy"))
    .description("what a box grants")
    .argument("[box]", BOX_HELP)
    .action((box: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/policy.ts")).policy(cli, box, options)),
    );
  reach(program.command("boxes"))
    .description(
      "which boxes suit: what they say of themselves, how fast they answer, what stands against them",
    )
    .argument("[box...]", `${BOX_HELP}; all known ones when left out`)
    .option("--for <fn>", "those that grant what this function asks for")
    .option("--manifest <file>", "manifest.json of a lone file")
    .option("--count <n>", "how many are wanted; exit code 4 when there are fewer", count(1, 64))
    .option("--distinct <kinds>", "relay, family or both: no two of one relay or family", list)
    .option("--region <codes>", "only in these countries, e.g. DE,SE, as operators claim", list)
    .option("--avoid-region <codes>", "in none of these countries", list)
    .option("--not <boxes>", "not these boxes or relay fingerprints", list)
    .action((boxes: string[], options) =>
      act(async (cli) => (await import("../client/cli/boxes.ts")).boxes(cli, boxes, options)),
    );
  reach(program.command("check"))
    .description("whether boxes would take a function, rule by rule")
    .argument("<fn>", FN_HELP)
    .argument("[box...]", BOX_HELP)
    .option("--manifest <file>", "manifest.json of a lone file")
    .action((fn: string, boxes: string[], options) =>
      act(async (cli) => (await import("../client/cli/policy.ts")).check(cli, fn, boxes, options)),
    );
  call(reach(program.command("run")))
    .description("install, start and read a function in one round trip; removes it afterwards")
    .argument("<fn>", `${FN_HELP}, or of a stored one`)
    .argument("[arg...]", "arguments, as strings")
    .option("-o, --output <file>", "write output there")
    .option("-i, --input <file>", "send this file (- for stdin) as messages")
    .option("--lines", "each line of the input is a message")
    .option("--leave-open", "do not end the function's input")
    .option("--manifest <file>", "manifest.json of a lone file")
    .option("--keep [name]", "keep the function installed and save its tokens")
    .option("--logs", "show on stderr what the function logs")
    .option("--cover <rate>", "inside cells at this constant rate both ways, e.g. 64KiB/s")
    .option("--cover-unit <duration>", "the cover lasts a multiple of this", "30s")
    .option("--dry-run", "show what would be sent, send nothing")
    .option("--later", LATER_HELP)
    .option(
      "--dropbox-box <box>",
      "with --later: the box that keeps the answer; another one than --box by default",
    )
    .option("--as <name>", "with --later: the name that collects the answer")
    .option("--expires <duration>", "with --later: how long the answer waits, e.g. 12h")
    .option("--max <size>", "with --later: room for the output (default: 16MiB)")
    .action((fn: string, args: string[], options) =>
      act(async (cli) => (await import("../client/cli/run.ts")).run(cli, fn, args, options)),
    );
  reach(program.command("store"))
    .description("install a function and save its tokens; prints the invocation token")
    .argument("<fn>", FN_HELP)
    .option("--as <name>", "save under this name")
    .option("--manifest <file>", "manifest.json of a lone file")
    .option("--dry-run", "show what would be sent, send nothing")
    .action((fn: string, options) =>
      act(async (cli) => (await import("../client/cli/store.ts")).store(cli, fn, options)),
    );
  call(reach(program.command("exec")))
    .description("start a stored function and leave it running; prints the instance's name")
    .argument("<token>", TOKEN_HELP)
    .argument("[arg...]", "arguments, as strings")
    .action((token: string, args: string[], options) =>
      act(async (cli) => (await import("../client/cli/exec.ts")).exec(cli, token, args, options)),
    );
  reach(program.command("shutdown"))
    .description("end a function: its instances, storage and tokens")
    .argument("<token>", `saved name, @file, - (stdin), or the shutdown token itself`)
    .action((token: string, options) =>
      act(async (cli) => (await import("../client/cli/owner.ts")).shutdown(cli, token, options)),
    );
  reach(program.command("logs"))
    .description("what a function's instances logged")
    .argument("<token>", `saved name, @file, - (stdin), or the shutdown token itself`)
    .option("-f, --follow", "go on with what comes, until the function is gone")
    .action((token: string, options) =>
      act(async (cli) => (await import("../client/cli/logs.ts")).logs(cli, token, options)),
    );
  reach(program.command("ls"))
    .description("what is saved here, or what a box says of one function")
    .argument("[token]", "saved name, @file, - (stdin), or the shutdown token itself")
    .action((token: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/owner.ts")).list(cli, token, options)),
    );
}

function addAuthoring(program: Command, act: Act): void {
  const fn = program.command("fn").description("write, try, test and pack functions");
  json(fn.command("init"))
    .description("a folder for a new function that runs, type-checks and has a test")
    .argument("[folder]", "where; named after the template when left out")
    .option("--python", "in Python")
    .option("--template <name>", "what it begins as: --list names them", "hello")
    .option("--list", "name the templates")
    .action((dir: string | undefined, options) =>
      act(async (cli) => (await import("./commands/fn-init.ts")).fnInit(cli, dir, options)),
    );
  privateNetworks(json(fn.command("dev")))
    .description("run a function again each time it is saved; lines typed are its messages")
    .argument("<fn>", FN_HELP)
    .argument("[arg...]", "arguments, as strings")
    .option("--call <expression>", CALL_HELP)
    .option("--args-json <array>", ARGS_JSON_HELP)
    .option("--manifest <file>", "manifest.json of a lone file")
    .option("--inspect [port]", "TypeScript: an inspector for DevTools and editors at 127.0.0.1:9229")
    .option("--net", "on a private Tor network: the one that runs, or one of its own")
    .option("--box <box>", `there, through Tor: ${BOX_HELP}`)
    .option("--socks <address>", "Tor's SOCKS port, host:port")
    .option("--direct [address]", "there, or at --box, without Tor; a box of its own when all are left out")
    .action((name: string, args: string[], options) =>
      act(async (cli) => (await import("./commands/fn-dev.ts")).fnDev(cli, name, args, options)),
    );
  privateNetworks(json(fn.command("test")))
    .description("a function's own tests, in a real box on this machine; needs no Tor")
    .argument("[fn]", FN_HELP, ".")
    .action((name: string, options) =>
      act(async (cli) => (await import("./commands/fn-test.ts")).fnTest(cli, name, options)),
    );
  json(fn.command("pack"))
    .description("one file that every command takes in place of the function; the same bytes everywhere")
    .argument("<fn>", FN_HELP)
    .option("-o, --output <file>", "write it there; NAME.bento.json when left out")
    .option("--manifest <file>", "manifest.json of a lone file")
    .action((name: string, options) =>
      act(async (cli) => (await import("./commands/fn-pack.ts")).fnPack(cli, name, options)),
    );
}

function addInstances(program: Command, act: Act): void {
  const INSTANCE_HELP = "saved name, @file, - (stdin), or the instance id itself";
  reach(program.command("open"))
    .description("attach to an instance; goes on where you last read")
    .argument("<instance>", INSTANCE_HELP)
    .option("-o, --output <file>", "write output there")
    .option("-i, --input <file>", "send this file (- for stdin) as messages")
    .option("--lines", "each line of the input is a message")
    .option("--end-input", "end the function's input after that")
    .option("--offset <bytes>", "read from here", count(0, Number.MAX_SAFE_INTEGER))
    .action((instance: string, options) =>
      act(async (cli) => (await import("../client/cli/open.ts")).open(cli, instance, options)),
    );
  reach(program.command("send"))
    .description("send one message to an instance")
    .argument("<instance>", INSTANCE_HELP)
    .argument("<message>", "text, @file, or - (stdin)")
    .action((instance: string, message: string, options) =>
      act(async (cli) => (await import("../client/cli/open.ts")).send(cli, instance, message, options)),
    );
  reach(program.command("recv"))
    .description("take one message of an instance")
    .argument("<instance>", INSTANCE_HELP)
    .option("--wait <seconds>", "how long", count(1, 86_400), 30)
    .action((instance: string, options) =>
      act(async (cli) => (await import("../client/cli/open.ts")).recv(cli, instance, options)),
    );
  reach(program.command("close"))
    .description("end the input of an instance, or the instance")
    .argument("<instance>", INSTANCE_HELP)
    .option("--kill", "end the instance at once")
    .action((instance: string, options) =>
      act(async (cli) => (await import("../client/cli/open.ts")).close(cli, instance, options)),
    );
}

function addFiles(program: Command, act: Act): void {
  reach(program.command("put"))
    .description("keep files on a box, encrypted here; prints a secret link for each")
    .argument("[file...]", "files")
    .option("--gets <n>", "downloads until it removes itself", count(1, 1000), 1)
    .option(
      "--bytes <size>",
      "bytes of all downloads until it does; 16 times the size for each when left out",
    )
    .option("--expires <duration>", "removed after this, e.g. 12h; 7d when left out")
    .option("--pad <size>", "padme, none, or a multiple such as 1MiB", "padme")
    .option("--no-encrypt", "put it as it is: the box can read and change it")
    .option("--as <name>", "save under this name")
    .option("--continue <name>", "go on with a put that was interrupted")
    .action((files: string[], options) =>
      act(async (cli) => (await import("../client/cli/put.ts")).put(cli, files, options)),
    );
  reach(program.command("get"))
    .description("fetch what was put; goes on where an interrupted download was")
    .argument("<what>", "saved name, @file or - (stdin) with a link, the link itself, or TOKEN@BOX")
    .option("-o, --output <file>", "write it there")
    .action((what: string, options) =>
      act(async (cli) => (await import("../client/cli/get.ts")).get(cli, what, options)),
    );
}

function addShards(program: Command, act: Act): void {
  const shard = program.command("shard").description("a file over many boxes, any k of which give it back");
  shardReach(shard.command("put"))
    .description("encrypt a file, cut it into n shards, put each on a box; writes the receipt")
    .argument("<file>", "file")
    .requiredOption("-k <shards>", "shards that it takes to get it back", count(1, 255))
    .requiredOption("-n <shards>", "shards in all", count(1, 255))
    .requiredOption("-o, --output <receipt>", "the receipt: a secret, and all that is needed afterwards")
    .option("--box <box...>", `${BOX_HELP}; those of the running network when left out`)
    .option("--share-boxes", "several shards on one box where there are too few")
    .option("--distinct <kinds>", "relay, family or both: no two beside one relay or family", list)
    .option("--region <codes>", "only in these countries, e.g. DE,SE, as operators claim", list)
    .option("--avoid-region <codes>", "in none of these countries", list)
    .option("--through <box>", "send the file once, to this box, whose function hands the shards on")
    .option("--expires <duration>", "removed after this, e.g. 12h; 7d when left out")
    .option("--pad <size>", "padme, none, or a multiple such as 1MiB", "padme")
    .action((file: string, options) =>
      act(async (cli) => (await import("../client/cli/shard.ts")).shardPut(cli, file, options)),
    );
  shardReach(shard.command("get"))
    .description("fetch a file by its receipt; goes on where an interrupted download was")
    .argument("<receipt>", "what `shard put` wrote")
    .option("-o, --output <file>", "write it there")
    .action((receipt: string, options) =>
      act(async (cli) => (await import("../client/cli/shard.ts")).shardGet(cli, receipt, options)),
    );
  shardReach(shard.command("status"))
    .description("ask each box for a block and verify it")
    .argument("<receipt>", "what `shard put` wrote")
    .action((receipt: string, options) =>
      act(async (cli) => (await import("../client/cli/shard-repair.ts")).shardStatus(cli, receipt, options)),
    );
  shardReach(shard.command("repair"))
    .description("put lost shards on other boxes and renew those that expire soon; updates the receipt")
    .argument("<receipt>", "what `shard put` wrote")
    .option("--box <box...>", `${BOX_HELP}; those of the running network when left out`)
    .option("--share-boxes", "several shards on one box where there are too few")
    .option("--distinct <kinds>", "relay, family or both: no two beside one relay or family", list)
    .option("--region <codes>", "only in these countries, e.g. DE,SE, as operators claim", list)
    .option("--avoid-region <codes>", "in none of these countries", list)
    .option("--renew <duration>", "renew what expires within this; a third of the lifetime when left out")
    .action((receipt: string, options) =>
      act(async (cli) => (await import("../client/cli/shard-repair.ts")).shardRepair(cli, receipt, options)),
    );
}

function addBalancers(program: Command, act: Act): void {
  const lb = program
    .command("lb")
    .description("an onion service whose clients are met by replicas on several boxes");
  scaling(reach(lb.command("start")))
    .description("start one and save it under a name; prints its onion address")
    .option("--site <folder>", "serve these files by HTTP")
    .option("--target <address>", "or a TCP destination of each replica, host:port")
    .option(
      "--key <file>",
      "tor's hs_ed25519_secret_key, or the folder that holds it; a new one when left out",
    )
    .option("--port <port>", "the port that clients name", count(1, 65535), 80)
    .option(
      "--boxes <boxes>",
      "of replicas, in order of preference, e.g. self,box1; all that suit when left out",
      list,
    )
    .option(
      "--standby <boxes>",
      "a second load balancer at the first of these, which takes over when the first one dies; the others come next",
      list,
    )
    .option("--distinct <kinds>", "relay, family or both: no two replicas beside one relay or family", list)
    .option("--region <codes>", "replicas only in these countries, e.g. DE,SE, as operators claim", list)
    .option("--avoid-region <codes>", "in none of these countries", list)
    .option("--not <boxes>", "not on these boxes or beside these relays", list)
    .option("--points <n>", "introduction points", count(1, 20))
    .option(
      "--client-key <key...>",
      "public keys of the only clients that may come, as tor has them; or @file",
    )
    .option("--name <name>", "save under this name")
    .addOption(
      new Option("--balancer-fn <fn>", "in place of the bundled function").default("loadbalancer").hideHelp(),
    )
    .addOption(
      new Option("--replica-fn <fn>", "in place of the bundled function").default("replica").hideHelp(),
    )
    .action((options) => act(async (cli) => (await import("../client/cli/lb.ts")).lbStart(cli, options)));
  shardReach(lb.command("status"))
    .description("its replicas, their load, introductions; exit code 6 when it cannot be reached")
    .argument("[name]", "as saved; the only one when left out")
    .option("--watch", "go on, until Ctrl-C")
    .option(
      "--page [port]",
      "draw it on a page on this machine, until Ctrl-C; prints the page's address",
      port,
    )
    .option("--open", "with --page: show it in the browser")
    .option("--interval <seconds>", "with --watch and --page: between reports", seconds, 1)
    .action((name: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/lb-status.ts")).lbStatus(cli, name, options)),
    );
  scaling(shardReach(lb.command("scale")))
    .description("change its settings while it runs")
    .argument("[name]", "as saved; the only one when left out")
    .action((name: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/lb-stop.ts")).lbScale(cli, name, options)),
    );
  shardReach(lb.command("resume"))
    .description("start its function again where it ended: same address, same replicas")
    .argument("[name]", "as saved; the only one when left out")
    .action((name: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/lb-resume.ts")).lbResume(cli, name, options)),
    );
  shardReach(lb.command("stop"))
    .description("end it, its replicas and its standby; exit code 9 when part of that could not be seen")
    .argument("[name]", "as saved; the only one when left out")
    .option("--forget", "forget it here, whatever the boxes say")
    .action((name: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/lb-stop.ts")).lbStop(cli, name, options)),
    );
}

function scaling(command: Command): Command {
  return command
    .option("--replicas <range>", "at least and at most so many, e.g. 1..4")
    .option(
      "--high <load>",
      "mean load that starts one more, e.g. connections=2,rate=1MiB/s,cpu=80%; any of the three",
    )
    .option("--low <load>", "mean load below which one ends; 40 % of --high when left out")
    .addOption(
      new Option("--choice <kind>", "which replica meets a client").choices(["least-loaded", "random"]),
    );
}

function addTools(program: Command, act: Act): void {
  reach(program.command("shell"))
    .description("interactive client: store, exec, open, close, send, recv, exit")
    .action((options) => act(async (cli) => (await import("../client/cli/shell.ts")).shell(cli, options)));
  reach(program.command("browse"))
    .description("fetch a page with everything in it at a box, as one answer of a common size and duration")
    .argument("[url]", "http:// or https://")
    .option("--shape <kind>", "bucket: few sizes, constant rate; none: as it comes (default: bucket)")
    .option(
      "--sizes <set>",
      "light, standard, strong, constant, or sizes such as 512KiB,2MiB (default: standard)",
    )
    .option(
      "--rate <size>",
      "bytes per second: 64KiB, 128KiB, 256KiB, 512KiB, 1024KiB or 2048KiB (default: 512KiB)",
    )
    .option("--pad <size>", "shape none, padded to a multiple of this, e.g. 1MiB; 0 for none")
    .addOption(
      new Option("--engine <engine>", "rendered runs the page's scripts, at boxes that offer a browser")
        .choices(["static", "rendered"])
        .default("static"),
    )
    .option("--scripts", "fetch scripts, too; the written page never holds them")
    .option("-o, --output <file>", "write the page there, as one self-contained HTML file")
    .option("--warc <file>", "write a web archive of the page there, scripts included")
    .option("--open", "show the page in the browser")
    .option("--serve", "serve a page on this machine to browse with; prints its address")
    .option("--port <port>", "with --serve: its port", count(0, 65535))
    .option("--explain", "say what the shape hides and costs; without a URL, that alone")
    .option(
      "--population <file>",
      "with --explain or --fit: sizes of pages, one a line, in place of the web's",
    )
    .option("--fit <k>", "use the k sizes that fit the population best")
    .option("--later", LATER_HELP)
    .option(
      "--dropbox-box <box>",
      "with --later: the box that keeps the page; another one than --box by default",
    )
    .option("--as <name>", "with --later: the name that collects the page")
    .option("--expires <duration>", "with --later: how long the page waits, e.g. 12h")
    .option("--max <size>", "with --later and shape none: room for the page (default: 16MiB)")
    .option("--collect <name>", "the page that was fetched meanwhile: its name or link")
    .action((url: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/browse.ts")).browse(cli, url, options)),
    );
  reach(program.command("cover"))
    .description("cells at a constant rate to a box and back, with nothing in them")
    .option("--rate <rate>", "bytes per second each way", "64KiB/s")
    .option("--for <duration>", "how long", "5m")
    .option("--circuits <n>", "the box sends them through so many circuits of its own instead", count(1, 64))
    .option(
      "--sink <address>",
      "with --circuits: host:port behind exits, in place of an onion service at the box",
    )
    .action((options) => act(async (cli) => (await import("../client/cli/cover.ts")).cover(cli, options)));
  reach(program.command("monitor"))
    .description("load, memory, disk, network and instances of a box, as far as its policy reveals them")
    .argument("[box]", BOX_HELP)
    .option("--interval <seconds>", "between two measurements", count(1, 3600), 2)
    .option("--count <n>", "so many measurements; 0 until Ctrl-C", count(0, 1_000_000), 0)
    .action((box: string | undefined, options) =>
      act(async (cli) => (await import("../client/cli/monitor.ts")).monitor(cli, box, options)),
    );
  program
    .command("completions")
    .description("completion script for your shell: source <(bento completions bash)")
    .argument("<shell>", "bash, zsh or fish")
    .action((shell: string) =>
      act(async (cli) => (await import("./completions.ts")).completions(cli, shell, program)),
    );
}

function json(command: Command): Command {
  return command.option("--json", "machine-readable: one JSON value a line");
}

function privateNetworks(command: Command): Command {
  return command.addOption(
    new Option("--private <cidr>", "a private network that the function may reach; may be repeated")
      .argParser((network: string, before: readonly string[]) => [...before, network])
      .default([], "none"),
  );
}

function reach(command: Command): Command {
  return shardReach(command).option("--box <box>", BOX_HELP);
}

/** Ways to boxes; which boxes is said otherwise. */
function shardReach(command: Command): Command {
  return json(command)
    .option("--socks <address>", "Tor's SOCKS port, host:port")
    .option("--relay <fingerprint>", "the box is at this relay's own address: end the circuit there")
    .option("--tor-control <address>", "your tor's control port, for --relay: host:port or unix:/path")
    .addOption(
      new Option("--direct", "plain TCP, without Tor: nothing hides you from the box").conflicts([
        "socks",
        "relay",
        "torControl",
      ]),
    );
}

function call(command: Command): Command {
  return command.option("--call <expression>", CALL_HELP).option("--args-json <array>", ARGS_JSON_HELP);
}

/** A whole number of an option. */
function count(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(
      max === Number.MAX_SAFE_INTEGER ? "Wanted a whole number." : `Wanted ${min} to ${max}.`,
    );
  };
}

/** `a,b` -> a, b */
function list(text: string): string[] {
  const items = text.split(",").map((item) => item.trim());
  if (items.every((item) => item !== "")) return items;
  throw new InvalidArgumentError("Wanted a list such as a,b.");
}

function port(text: string): number {
  return count(0, 65535)(text);
}

/** From a tenth of a second to an hour. */
function seconds(text: string): number {
  const value = Number(text);
  if (/^\d+(\.\d+)?$/.test(text) && value >= 0.1 && value <= 3600) return value;
  throw new InvalidArgumentError("Wanted seconds, 0.1 to 3600.");
}

function rate(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && value > 0 && value <= 10_000) return value;
  throw new InvalidArgumentError("Wanted Mbit/s, e.g. 8 or 0.5.");
}

// Runs inside a box (or outside, as the control) and does what it is told: one JSON request per line on stdin,
// one JSON answer per line on stdout. `seq` is a list of raw system calls, `eval` is JavaScript source.
// With all of Deno's own permissions granted, what still fails is the operating system's doing.

const encoder = new TextEncoder();
let native;

function libc() {
  native ??= Deno.dlopen("libc.so.6", {
    syscall: { parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"], result: "i64" },
    __errno_location: { parameters: [], result: "pointer" },
  }).symbols;
  return native;
}

function sysCall(number, ...args) {
  const values = args.map((arg) =>
    arg instanceof Uint8Array ? Deno.UnsafePointer.value(Deno.UnsafePointer.of(arg)) : BigInt(arg),
  );
  while (values.length < 6) values.push(0n);
  const errno = libc().__errno_location();
  const result = Number(libc().syscall(BigInt(number), ...values));
  return [result, result === -1 ? new Deno.UnsafePointerView(errno).getInt32() : 0];
}

function runCode(code) {
  const [address] = sysCall(9, 0, 4096, 7, 0x22, -1, 0);
  const pointer = Deno.UnsafePointer.create(BigInt(address));
  new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, 4096)).set(code);
  return new Deno.UnsafeFnPointer(pointer, { parameters: [], result: "i32" }).call();
}

const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));

function decode(arg, results) {
  if (typeof arg !== "object") return arg;
  if ("s" in arg) return encoder.encode(`${arg.s}\0`);
  if ("b" in arg) return fromHex(arg.b);
  return results[arg.r];
}

async function answer(request) {
  if ("code" in request) return { value: runCode(fromHex(request.code)) };
  if ("seq" in request) {
    const results = [];
    for (const [at, [number, ...args]] of request.seq.entries()) {
      const [result, errno] = sysCall(number, ...args.map((arg) => decode(arg, results)));
      if (result === -1) return { errno, at };
      if (result === 0 && sysCall(39)[0] !== Deno.pid) sysCall(request.exitChild, 0);
      results.push(result);
    }
    return { value: results.at(-1) };
  }
  const AsyncFunction = (async () => {}).constructor;
  return { value: await new AsyncFunction("sysCall", request.eval)(sysCall) };
}

await Deno.stdout.write(encoder.encode("ready\n"));
let text = "";
for await (const part of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  text += part;
  for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
    const line = text.slice(0, end);
    text = text.slice(end + 1);
    let reply;
    try {
      reply = await answer(JSON.parse(line));
    } catch (error) {
      reply = { error: `${error?.name}: ${error?.message}` };
    }
    await Deno.stdout.write(encoder.encode(`${JSON.stringify(reply)}\n`));
  }
}

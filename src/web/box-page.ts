// The box's page for people: who runs it, what its policy grants, how to use it. A pure function of what the box
// publishes anyway; no script, no asset from elsewhere, readable without styles, by screen readers and in the dark.

import { formatBytes } from "../base/bytes.ts";
import type { Info } from "../wire/api.ts";
import type { Policy } from "../wire/policy.ts";
import { formatDuration } from "../wire/quantity.ts";
import { escapeHtml } from "./escape-html.ts";

const EXIT_RULES_SHOWN = 12;

const STYLE = `
:root { color-scheme: light dark; --line: #8884; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.2rem; } td { overflow-wrap: anywhere; } caption { text-align: left; color: var(--soft); }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; width: 45%; } code, pre { font: .9em/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .7rem; border-radius: .3rem; }
.state { color: var(--soft); margin-top: .2rem; }
`;

export function boxPage(info: Info, policy: Policy): string {
  const title = `${info.name} – Bento box`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>${escapeHtml(info.name)}</h1>
<p class="state">${stateOf(info, policy)}</p>
<p>This is a Bento box: it runs small programs, <em>functions</em>, for people who reach it through Tor. What a
function may do is bounded by the policy below. Without evidence from hardware, whoever operates a box can see what
its functions do.</p>
<h2>About</h2>
${table("Who this is", aboutRows(info))}
<h2>What functions may do</h2>
${table("Capabilities", capabilityRows(policy))}
${exitRules(policy)}
<h2>Limits</h2>
${table("For each function and instance", limitRows(policy))}
${table("For the whole box", totalRows(policy))}
<h2>How to use it</h2>
<p>With the Bento client, over Tor, using the address at which you reached this page:</p>
<pre><code>bento policy BOX              what this box grants
bento check FUNCTION BOX      whether it would take a function, rule by rule
bento run FUNCTION --box BOX  install, start and attach at once</code></pre>
<p>Machine-readable: <a href="/v1/policy">policy</a>, <a href="/v1/info">information</a>.</p>
</main>
</body>
</html>
`;
}

function stateOf(info: Info, policy: Policy): string {
  if (!info.accepting) return "At the moment this box does not start functions.";
  return policy.store
    ? "This box takes new functions."
    : "This box runs the functions it has, but takes no new ones.";
}

type Row = readonly [string, string];

function aboutRows(info: Info): Row[] {
  return [
    ["Software", info.software],
    ["Companion relay", info.relay ?? "not stated"],
    ["Contact", info.contact ?? "not stated"],
    ["Onion address", info.onion ?? "none"],
  ];
}

function capabilityRows(policy: Policy): Row[] {
  const { net, storage } = policy;
  return [
    ["Runtimes", policy.images.join(", ") || "none"],
    ["Isolation", "one sandboxed process for each instance"],
    ["Further system calls", policy.syscalls.join(", ") || "none"],
    [
      "Connections out",
      net
        ? `within the relay's exit policy; at most ${net.connections} at once and ${formatBytes(net.bytes)} for each instance`
        : "none",
    ],
    ["Encrypted storage", storage ? `up to ${formatBytes(storage.bytes)} for each function` : "none"],
    ["Facts about this box", policy.box.join(", ") || "none"],
  ];
}

function limitRows(policy: Policy): Row[] {
  const each = policy.function;
  return [
    ["Package", formatBytes(policy.packageBytes)],
    ["Memory", formatBytes(each.memoryBytes)],
    ["Processor", `${each.cpuPercent}% of one core`],
    ["Processes and threads", String(each.pids)],
    ["Scratch directory", formatBytes(each.tmpBytes)],
    ["Instances of a function", String(each.instances)],
    ["A function is kept for", formatDuration(each.lifetimeMs)],
    ["An instance may run for", formatDuration(each.runtimeMs)],
    ["Unread output", formatBytes(each.backlogBytes)],
  ];
}

function totalRows(policy: Policy): Row[] {
  const { total } = policy;
  return [
    ["Functions", String(total.functions)],
    ["Running instances", String(total.instances)],
    ["Memory", formatBytes(total.memoryBytes)],
    ["Processor", `${total.cpuPercent}% of one core`],
    ["Storage", formatBytes(total.storageBytes)],
  ];
}

function exitRules(policy: Policy): string {
  if (!policy.net) return "";
  const { exit } = policy.net;
  const shown = exit.slice(0, EXIT_RULES_SHOWN).map(escapeHtml).join("\n");
  const more = exit.length - EXIT_RULES_SHOWN;
  const rest = more > 0 ? `\n… and ${more} more` : "";
  return `<p>Exit policy, first match decides:</p>\n<pre><code>${shown}${rest}</code></pre>`;
}

function table(caption: string, rows: readonly Row[]): string {
  const body = rows.map(
    ([name, value]) => `<tr><th scope="row">${escapeHtml(name)}</th><td>${escapeHtml(value)}</td></tr>`,
  );
  return `<table>\n<caption>${escapeHtml(caption)}</caption>\n<tbody>\n${body.join("\n")}\n</tbody>\n</table>`;
}

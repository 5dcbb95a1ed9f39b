// Completion scripts for bash, zsh and fish, generated from the command tree, so that they cannot fall behind it.

import type { Command } from "commander";
import { type Cli, usage } from "../client/cli/cli.ts";
import { nearest } from "../client/nearest.ts";
import { bundledFunctions } from "../client/package-loader.ts";

/** One place in the tree: `net up` with its options, subcommands and what its arguments may be. */
interface Node {
  readonly path: string;
  readonly description: string;
  readonly options: readonly {
    readonly flag: string;
    readonly description: string;
    readonly takesValue: boolean;
    readonly takesFile: boolean;
  }[];
  readonly children: readonly { readonly name: string; readonly description: string }[];
  /** Words that the arguments may be: names of functions, or of shells. */
  readonly values: "functions" | "shells" | "none";
  readonly takesFiles: boolean;
}

const SHELLS = ["bash", "zsh", "fish"] as const;
/** Arguments and values of options, by the name in the usage line, that are files. */
const FILES = ["fn", "arg", "file", "folder", "receipt"];

export async function completions(cli: Cli, shell: string, program: Command): Promise<number> {
  const nodes = [...nodesOf(program, "")];
  const functions = await bundledFunctions();
  switch (shell) {
    case "bash":
      cli.io.stdout.write(bash(nodes, functions));
      return 0;
    case "zsh":
      cli.io.stdout.write(zsh(nodes, functions));
      return 0;
    case "fish":
      cli.io.stdout.write(fish(nodes, functions));
      return 0;
    default: {
      const near = nearest(shell, SHELLS);
      throw usage(
        `Cannot complete for "${shell}": wanted bash, zsh or fish`,
        near && `Did you mean ${near}?`,
      );
    }
  }
}

function* nodesOf(command: Command, path: string): Generator<Node> {
  const options = command.options
    .filter((option) => !option.hidden)
    .flatMap((option) =>
      [option.long, option.short]
        .filter((flag) => flag !== undefined)
        .map((flag) => ({
          flag,
          description: option.description,
          takesValue: option.required,
          takesFile: FILES.includes(/<(\w+)>/.exec(option.flags)?.[1] ?? ""),
        })),
    );
  const children = command.commands.map((child) => ({
    name: child.name(),
    description: child.description(),
  }));
  const names = command.registeredArguments.map((argument) => argument.name());
  yield {
    path,
    description: command.description(),
    options: [...options, { flag: "--help", description: "help", takesValue: false, takesFile: false }],
    children: path === "" ? [...children, { name: "help", description: "help for a command" }] : children,
    values: names[0] === "fn" ? "functions" : names[0] === "shell" ? "shells" : "none",
    takesFiles: names.some((name) => FILES.includes(name)),
  };
  for (const child of command.commands) yield* nodesOf(child, `${path} ${child.name()}`.trim());
}

function bash(nodes: readonly Node[], functions: readonly string[]): string {
  const cases = nodes.map(
    (node) =>
      `    ${quote(node.path)}) subs=${quote(node.children.map(({ name }) => name).join(" "))}; ` +
      `opts=${quote(node.options.map(({ flag }) => flag).join(" "))}; ` +
      `values=${quote(valuesOf(node, functions).join(" "))}; files=${node.takesFiles ? "-f" : ""} ;;`,
  );
  const valued = (takesFile: boolean) => {
    const options = nodes.flatMap((node) => node.options).filter((option) => option.takesValue);
    return [...new Set(options.filter((option) => option.takesFile === takesFile).map(({ flag }) => flag))];
  };
  return `# bash completion for bento: source <(bento completions bash)
_bento() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} path= word subs opts values files i
  COMPREPLY=()
  case "$prev" in
    ${valued(true).join("|")}) COMPREPLY=( $(compgen -f -- "$cur") ); return ;;
    ${valued(false).join("|")}) return ;;
  esac
  for (( i = 1; i < COMP_CWORD; i++ )); do
    word=\${COMP_WORDS[i]}
    case "$path $word" in
${nodes
  .filter(({ path }) => path !== "")
  .map(({ path }) => `      ${quote(path.includes(" ") ? path : ` ${path}`)}) path=${quote(path)} ;;`)
  .join("\n")}
    esac
  done
  case "$path" in
${cases.join("\n")}
  esac
  if [[ $cur == -* ]]; then COMPREPLY=( $(compgen -W "$opts" -- "$cur") )
  elif [[ -n $subs ]]; then COMPREPLY=( $(compgen -W "$subs" -- "$cur") )
  else
    COMPREPLY=( $(compgen -W "$values" -- "$cur") )
    if [[ -n $files ]]; then COMPREPLY+=( $(compgen -f -- "$cur") ); fi
  fi
}
complete -o filenames -F _bento bento ./bento
`;
}

function zsh(nodes: readonly Node[], functions: readonly string[]): string {
  const cases = nodes.map((node) => {
    const subs = node.children.map(({ name, description }) => quote(`${zshText(name)}:${description}`));
    const opts = node.options.map(({ flag, description }) => quote(`${zshText(flag)}:${description}`));
    const values = valuesOf(node, functions).join(" ");
    return `    ${quote(node.path)}) subs=(${subs.join(" ")}); opts=(${opts.join(" ")}); values=(${values}); files=${node.takesFiles ? "1" : ""} ;;`;
  });
  return `#compdef bento
# zsh completion for bento: source <(bento completions zsh)
_bento() {
  local -a subs opts values
  local path_ word files
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "$path_ $word" in
${nodes
  .filter(({ path }) => path !== "")
  .map(({ path }) => `      ${quote(path.includes(" ") ? path : ` ${path}`)}) path_=${quote(path)} ;;`)
  .join("\n")}
    esac
  done
  case "$path_" in
${cases.join("\n")}
  esac
  if [[ \${words[CURRENT]} == -* ]]; then _describe option opts
  elif (( $#subs )); then _describe command subs
  else
    compadd -a values
    if [[ -n $files ]]; then _files; fi
  fi
}
compdef _bento bento
`;
}

function fish(nodes: readonly Node[], functions: readonly string[]): string {
  const lines = ["# fish completion for bento: bento completions fish | source"];
  for (const node of nodes) {
    const words = node.path === "" ? [] : node.path.split(" ");
    const seen = words.map((word) => `__fish_seen_subcommand_from ${word}`).join("; and ");
    const names = node.children.map(({ name }) => name).join(" ");
    const none = names === "" ? "" : `not __fish_seen_subcommand_from ${names}`;
    const here = [seen, none].filter((part) => part !== "").join("; and ") || "true";
    for (const { name, description } of node.children) {
      lines.push(`complete -c bento -f -n ${quote(here)} -a ${quote(name)} -d ${quote(description)}`);
    }
    for (const { flag, description, takesValue, takesFile } of node.options) {
      const name = flag.startsWith("--") ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`;
      lines.push(
        `complete -c bento -n ${quote(here)} ${name}${takesFile ? " -r" : takesValue ? " -x" : ""} -d ${quote(description)}`,
      );
    }
    const values = valuesOf(node, functions);
    if (values.length > 0) lines.push(`complete -c bento -n ${quote(here)} -a ${quote(values.join(" "))}`);
    if (!node.takesFiles) lines.push(`complete -c bento -f -n ${quote(here)}`);
  }
  return `${lines.join("\n")}\n`;
}

function valuesOf(node: Node, functions: readonly string[]): readonly string[] {
  if (node.values === "functions") return functions;
  return node.values === "shells" ? SHELLS : [];
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function zshText(text: string): string {
  return text.replaceAll(":", "\\:");
}

// Reads the project's own pages: fenced blocks with what stands before them, headings with their anchors, links.
// Enough of CommonMark and of GitHub's anchors for pages that we write; the pages are trusted.

export interface Block {
  /** Number of the line of its opening fence, from 1. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
  /** `run`, `run in another terminal`: the comment right before it. */
  readonly mark: string | undefined;
  /** The lone `code span` right before it: the file that the block is. */
  readonly file: string | undefined;
}

/** The fenced blocks of a page, in order. */
export function blocksOf(page: string): Block[] {
  const lines = page.split("\n");
  const blocks: Block[] = [];
  for (let at = 0; at < lines.length; at++) {
    const fence = /^```(\w*)$/.exec(lines[at] ?? "");
    if (!fence) continue;
    const end = lines.indexOf("```", at + 1);
    if (end === -1) throw new Error(`Cannot read page: the block in line ${at + 1} has no end`);
    const before = lines.slice(0, at).findLast((line) => line !== "") ?? "";
    blocks.push({
      line: at + 1,
      language: fence[1] ?? "",
      text: `${lines.slice(at + 1, end).join("\n")}\n`,
      mark: /^<!-- (run.*) -->$/.exec(before)?.[1],
      file: /^`([\w./-]+)`$/.exec(before)?.[1],
    });
    at = end;
  }
  return blocks;
}

/** `## 2.1 Errors and codes` -> `21-errors-and-codes`, as GitHub makes them. */
export function anchorsOf(page: string): string[] {
  return headingsOf(page).map((heading) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(/\s/g, "-"),
  );
}

export function headingsOf(page: string): string[] {
  return [...withoutBlocks(page).matchAll(/^#{1,6} +(.+?) *$/gm)].map(([, text = ""]) =>
    text.replaceAll("`", ""),
  );
}

/** Targets of inline links, as written. */
export function linksOf(page: string): string[] {
  const prose = withoutBlocks(page).replaceAll(/`[^`\n]*`/g, "");
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = ""]) => target);
}

function withoutBlocks(page: string): string {
  return page.replaceAll(/^```[^]*?^```$/gm, "");
}

// Text from users, boxes and operators on its way into a page: nothing of it may become markup. Pure, no I/O.
// Spec: HTML 13.1.2.3 (attributes), 13.1.4 (character references).

const REFERENCES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** For text inside elements and values of quoted attributes; not for scripts, styles or unquoted values. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => REFERENCES[character] ?? "");
}

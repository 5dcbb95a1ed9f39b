// A document while it is read, in short pieces: what it refers to can be fetched long before its end. A document is hostile:
// whatever it makes grow is bounded, and it is read for so long and not longer.

import { parseHtmlInSteps } from "../../src/wire/page/html.ts";
import { Breather } from "./breather.ts";
import {
  adapterOf,
  type DocumentReference,
  type InlineStyle,
  type Refresh,
  Scanner,
  type Types,
} from "./document-scanner.ts";
import { BrowserLimits as Limits } from "./limits.ts";

/** Of documents up to this length all is read before anything is done: characters, a few milliseconds. */
const SHORT_LENGTH = 32 * 1024;

/** A document while it is read: first what decides whether it is the page at all, then to its end. */
export class DocumentScan implements Disposable {
  readonly #scanner: Scanner;
  readonly #steps: Generator<void, { readonly isWhole: boolean }, void>;
  readonly #breather = new Breather();
  readonly #isShort: boolean;
  #isDisposed = false;
  #whole: boolean | undefined;

  /** Until the signal aborts: what was found by then counts. */
  constructor(html: string, documentUrl: string, signal: AbortSignal) {
    this.#scanner = new Scanner(documentUrl);
    this.#isShort = html.length <= SHORT_LENGTH;
    this.#steps = parseHtmlInSteps<Types>(html, adapterOf(this.#scanner), {
      elementsMax: Limits.elementsMax,
      isOver: () => this.#isDisposed || signal.aborted || this.#breather.workedMs > Limits.parseMs,
    });
  }

  /** What was found so far, in document order. */
  get references(): readonly (DocumentReference | InlineStyle)[] {
    return this.#scanner.references;
  }

  /** Base of the references: `<base href>` or the document's own URL. */
  get base(): string {
    return this.#scanner.base;
  }

  get refresh(): Refresh | undefined {
    return this.#scanner.refresh;
  }

  /** One bit for each code point that the text holds: what fonts must have. */
  get codePoints(): Uint32Array {
    return this.#scanner.codePoints;
  }

  /** False when the document was too entangled to walk to its end. */
  get isWhole(): boolean {
    return this.#whole ?? false;
  }

  /** The head of a long document, a short one to its end. */
  async readHead(): Promise<void> {
    while ((this.#isShort || !this.#scanner.isInBody) && this.#readPiece()) await this.#breather.breathe();
  }

  /** To the end. `onFound` is called whenever there may be more references, until this is disposed of. */
  async readOn(onFound: () => void): Promise<void> {
    while (this.#readPiece()) {
      if (!this.#breather.isDue) continue;
      onFound();
      await this.#breather.breathe();
    }
    if (!this.#isDisposed) onFound();
  }

  /** Whoever reads on comes to an end. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
  }

  /** False when there is none left. */
  #readPiece(): boolean {
    if (this.#whole !== undefined) return false;
    const step = this.#steps.next();
    if (step.done) this.#whole = step.value.isWhole;
    return !step.done;
  }
}

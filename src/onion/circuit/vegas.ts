// The congestion window of one circuit, by round-trip times: how many cells may be under way without queues at relays.
// Pure: numbers in, a number out. Times are microseconds, windows cells.
// Spec: proposal 324 2.1 (round trips), 3.1.2 (bandwidth-delay product), 3.3 (TOR_VEGAS), 6.5 (parameters).

export interface VegasParameters {
  /** cc_sendme_inc, or what the other end said. */
  readonly sendmeIncrement: number;
  readonly windowInitial: number;
  readonly windowMin: number;
  readonly windowMax: number;
  readonly increment: number;
  readonly incrementRate: number;
  readonly slowStartPercent: number;
  readonly slowStartMax: number;
  /** RFC 3742: above it, slow start slows down. */
  readonly slowStartCap: number;
  readonly alpha: number;
  readonly beta: number;
  readonly gamma: number;
  readonly delta: number;
  readonly fullGap: number;
  readonly fullMinPercent: number;
  readonly fullPerWindow: boolean;
  readonly ewmaPercent: number;
  readonly ewmaMax: number;
  readonly ewmaSlowStart: number;
  readonly roundTripResetPercent: number;
}

/** Cells in two TLS records: what one relay's output buffer holds. */
const OUTBUF_CELLS = 62;

/** What the consensus says, by name; proposal 324 6.5.3 has the parameters by kind of path. */
export function vegasParameters(
  consensus: ReadonlyMap<string, number>,
  path: "exit" | "onion",
  sendmeIncrement?: number,
): VegasParameters {
  const get = (name: string, normal: number, min: number, max: number) =>
    Math.min(max, Math.max(min, consensus.get(name) ?? normal));
  const increment = sendmeIncrement ?? get("cc_sendme_inc", 31, 1, 255);
  const queue = (name: string, exit: number, onion: number, max = 1000) =>
    get(`cc_vegas_${name}_${path}`, OUTBUF_CELLS * (path === "exit" ? exit : onion), 0, max);
  return {
    sendmeIncrement: increment,
    windowInitial: get("cc_cwnd_init", 4 * 31, 31, 10_000),
    windowMin: get("cc_cwnd_min", 4 * 31, 31, 1000),
    windowMax: get("cc_cwnd_max", INT32_MAX, 500, INT32_MAX),
    increment: get("cc_cwnd_inc", 1, 1, 1000),
    incrementRate: get("cc_cwnd_inc_rate", 31, 1, 250),
    slowStartPercent: get("cc_cwnd_inc_pct_ss", 100, 1, 500),
    slowStartMax: get("cc_ss_max", 5000, 500, INT32_MAX),
    slowStartCap: get(`cc_sscap_${path}`, path === "exit" ? 600 : 475, 100, INT32_MAX),
    alpha: queue("alpha", 3, 3),
    beta: queue("beta", 4, 6),
    gamma: queue("gamma", 3, 4),
    delta: queue("delta", 5, 7, INT32_MAX),
    fullGap: get("cc_cwnd_full_gap", 4, 0, 32_767),
    fullMinPercent: get("cc_cwnd_full_minpct", 25, 0, 100),
    fullPerWindow: get("cc_cwnd_full_per_cwnd", 1, 0, 1) === 1,
    ewmaPercent: get("cc_ewma_cwnd_pct", 50, 1, 255),
    ewmaMax: get("cc_ewma_max", 10, 2, INT32_MAX),
    ewmaSlowStart: get("cc_ewma_ss", 2, 2, INT32_MAX),
    roundTripResetPercent: get("cc_rtt_reset_pct", 100, 0, 100),
  };
}

const INT32_MAX = 0x7fff_ffff;
/** Proposal 324 2.1.1: a round trip this many times longer or shorter than usual is a clock that jumped. */
const JUMP_RATIO = 5000;

export class Vegas {
  readonly #p: VegasParameters;
  #window: number;
  #isSlowStart = true;
  #isFull = false;
  /** SENDMEs until the window may change, and until one window of them has passed. */
  #nextUpdate = 0;
  #nextWindow = 0;
  #smoothUs = 0;
  #minUs = 0;
  #isStalled = false;

  constructor(parameters: VegasParameters) {
    this.#p = parameters;
    this.#window = parameters.windowInitial;
    this.#nextUpdate = this.#updateRate();
    this.#nextWindow = this.#sendmesPerWindow();
  }

  get window(): number {
    return this.#window;
  }

  get isSlowStart(): boolean {
    return this.#isSlowStart;
  }

  /** One SENDME. `inFlight` is still counted without it. */
  acknowledged(ack: {
    readonly roundTripUs: number;
    readonly inFlight: number;
    readonly isBlocked: boolean;
  }): void {
    if (this.#nextUpdate > 0) this.#nextUpdate--;
    if (this.#nextWindow > 0) this.#nextWindow--;
    if (!this.#isUsable(ack.roundTripUs)) return;
    this.#smooth(ack.roundTripUs);
    this.#noteFullness(ack.inFlight);
    if (this.#isSlowStart) this.#slowStart(ack.isBlocked);
    else if (this.#nextUpdate === 0) this.#steady(ack.isBlocked);
    this.#window = Math.max(this.#p.windowMin, Math.min(this.#window, this.#p.windowMax));
    this.#schedule();
  }

  /** 2.1.1 Clock jump heuristics. */
  #isUsable(roundTripUs: number): boolean {
    if (roundTripUs <= 0) {
      this.#isStalled = true;
      return false;
    }
    if (this.#smoothUs === 0 || this.#isSlowStart) return true;
    if (roundTripUs > this.#smoothUs * JUMP_RATIO) return false;
    if (roundTripUs * JUMP_RATIO < this.#smoothUs) return !this.#isStalled;
    this.#isStalled = false;
    return true;
  }

  /** 2.1.2: exponential moving average over N, in the form that rounds as others do. */
  #smooth(roundTripUs: number): void {
    const { ewmaSlowStart, ewmaPercent, ewmaMax, windowMin, roundTripResetPercent: percent } = this.#p;
    const n = this.#isSlowStart
      ? ewmaSlowStart
      : Math.max(Math.min(Math.floor((this.#updateRate() * ewmaPercent) / 100), ewmaMax), 2);
    this.#smoothUs =
      this.#smoothUs === 0 ? roundTripUs : Math.floor((roundTripUs * 2 + this.#smoothUs * (n - 1)) / (n + 1));
    if (this.#minUs === 0 || this.#smoothUs < this.#minUs) this.#minUs = this.#smoothUs;
    // 3.1.2: a window at its minimum may be starved by a round trip that once was lucky.
    else if (this.#window <= windowMin && !this.#isSlowStart)
      this.#minUs = Math.floor((percent * this.#smoothUs + (100 - percent) * this.#minUs) / 100);
  }

  /** 3.1.2: cwnd * RTT_min / RTT. */
  #bandwidthDelay(): number {
    return Math.floor((this.#window * this.#minUs) / this.#smoothUs);
  }

  #noteFullness(inFlight: number): void {
    const { fullGap, fullMinPercent, sendmeIncrement } = this.#p;
    if (inFlight + fullGap * sendmeIncrement >= this.#window) this.#isFull = true;
    else if (100 * inFlight < fullMinPercent * this.#window) this.#isFull = false;
  }

  #slowStart(isBlocked: boolean): void {
    const { gamma, increment, incrementRate, slowStartMax } = this.#p;
    const product = this.#bandwidthDelay();
    if (this.#window - product < gamma && !isBlocked) {
      if (this.#isFull) {
        const step = this.#slowStartStep();
        this.#window += step;
        if (step * this.#sendmesPerWindow() <= increment * incrementRate) this.#isSlowStart = false;
      }
    } else {
      this.#isSlowStart = false;
      this.#window = product + gamma;
    }
    if (this.#window >= slowStartMax) {
      this.#window = slowStartMax;
      this.#isSlowStart = false;
    }
  }

  /** RFC 3742, "rfc3742_ss_inc". */
  #slowStartStep(): number {
    const { slowStartCap, slowStartPercent, sendmeIncrement } = this.#p;
    return this.#window <= slowStartCap
      ? Math.round((slowStartPercent * sendmeIncrement) / 100)
      : Math.max(Math.round((sendmeIncrement * slowStartCap) / (2 * this.#window)), 1);
  }

  #steady(isBlocked: boolean): void {
    const { alpha, beta, delta, increment } = this.#p;
    const product = this.#bandwidthDelay();
    const queue = Math.max(0, this.#window - product);
    if (queue > delta) this.#window = product + delta - increment;
    else if (queue > beta || isBlocked) this.#window -= increment;
    else if (this.#isFull && queue < alpha) this.#window += increment;
  }

  #schedule(): void {
    const isUpdate = this.#nextUpdate === 0;
    const isWindow = this.#nextWindow === 0;
    if (isUpdate) this.#nextUpdate = this.#updateRate();
    if (isWindow) this.#nextWindow = this.#sendmesPerWindow();
    if (this.#p.fullPerWindow ? isWindow : isUpdate) this.#isFull = false;
  }

  #sendmesPerWindow(): number {
    const { sendmeIncrement } = this.#p;
    return Math.max(1, Math.floor((this.#window + sendmeIncrement / 2) / sendmeIncrement));
  }

  #updateRate(): number {
    if (this.#isSlowStart) return 1;
    const each = this.#p.incrementRate * this.#p.sendmeIncrement;
    return Math.max(1, Math.floor((this.#window + each / 2) / each));
  }
}

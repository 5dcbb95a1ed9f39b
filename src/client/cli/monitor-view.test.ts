import assert from "node:assert/strict";
import { test } from "node:test";
import { HISTORY_MAX, type Measurement, measurementSchema, monitorLines } from "./monitor-view.ts";

const MIB = 2 ** 20;

function at(time: number, change: Partial<Measurement> = {}): Measurement {
  return { time, instances: { running: 1, limit: 4 }, ...change };
}

test("monitorLines: one line for each fact that is there, none for the others", () => {
  assert.deepEqual(monitorLines([]), []);
  const lines = monitorLines([at(1000)]);
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /^instances +▃ +1 of 4$/);
});

test("monitorLines: the rate of the network is taken between measurements, and a restart is no negative rate", () => {
  const network = (mib: number) => ({
    network: { connections: 1, receivedBytes: mib * MIB, sentBytes: 0 },
  });
  const rising = monitorLines([at(0, network(1)), at(2000, network(5))]);
  assert.match(rising[0] ?? "", /^network +█ +2 MiB\/s; 1 connections, 5 MiB in, 0 B out$/);
  const restarted = monitorLines([at(0, network(9)), at(1000, network(0))]);
  assert.match(restarted[0] ?? "", / 0 B\/s; /);
});

test("monitorLines: the course ends with the newest measurements and is bounded", () => {
  const history = Array.from({ length: HISTORY_MAX + 5 }, (_, index) =>
    at(index, { instances: { running: index < 5 ? 0 : 4, limit: 4 } }),
  );
  const [line = ""] = monitorLines(history);
  assert.equal(line.split(/\s+/)[1], "█".repeat(HISTORY_MAX));
});

test("measurementSchema: what a lying box may not say", () => {
  for (const wrong of [
    { time: -1 },
    { time: 1, load: { average: [0, 0], cores: 1, busyPercent: 1 } },
    { time: 1, load: { average: [0, 0, 0], cores: 1, busyPercent: 101 } },
    { time: 1, instances: { running: "\u001b[2J", limit: 1 } },
    { time: 1, memory: { totalBytes: 1 } },
  ]) {
    assert.equal(measurementSchema.safeParse(wrong).success, false, JSON.stringify(wrong));
  }
});

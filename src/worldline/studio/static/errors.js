// The distance of a dream from what was measured.
import { Chart } from "studio/lane.js";
import { html } from "studio/parts.js";
import { compare } from "studio/present.js";
import { cell, rangeOf, withUnit } from "studio/signals.js";

// Log and dream after the present, and their distance in units; a discrete value is right or wrong.
export function pairs({ observed, now, first }, { mean, low, high }, { signal, index }) {
  const period = signal.period, rows = observed[signal.name] ?? [];
  return mean.map((row, k) => {
    const real = cell(rows[now - first + 1 + k], index), dream = cell(row, index), size = Math.abs(dream - real);
    const edges = [cell(low?.[k], index), cell(high?.[k], index)], half = edges.includes(null) ? null : Math.max(edges[1] - dream, dream - edges[0]);
    return { real, dream, half, error: real == null || dream == null ? null : index === null ? Math.sign(size) : period ? Math.min(size % period, period - size % period) : size };
  });
}

export function Errors({ curve, present, forecast, at, bare, onPick, real = "log" }) {
  const { axis, now, horizon, first } = present, rows = pairs(present, forecast, curve), x = rows.map((_, k) => (now + 1 + k) * axis.scale);
  const error = rows.map(row => row.error), half = rows.map(row => row.half), result = compare(forecast, (present.observed[curve.signal.name] ?? []).slice(now - first + 1), curve.index);
  const lines = [{ label: "error", style: "real", x, y: error, dash: [] }, { label: "half band", style: "world", x, y: half, low: half.map(size => size === null ? null : 0), high: half }];
  return html`<${Chart} label=${`Distance of ${real} and dream, ${curve.label}`} lines=${half.some(size => size !== null) ? lines : lines.slice(0, 1)} x=${[first * axis.scale, (now + horizon) * axis.scale]}
      y=${[0, rangeOf([error, half], 0)[1]]} now=${[now * axis.scale, at]} unit=${curve.unit} axis=${axis.label} height=${bare ? 52 : 76} bare=${bare} onPick=${onPick} table=${false} />
    <p class="soft error-note">error ${result ? `${withUnit(result.rmse, curve.unit)} RMSE${forecast.low ? `, ${Math.round(100 * result.inside)} % of the ${real} inside the band` : ""}` : "unknown: nothing was measured"}</p>`;
}

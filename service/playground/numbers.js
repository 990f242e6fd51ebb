// What happened between two looks, from numbers that only ever grow.

/** `after` minus `before`, name by name; counts of a service that was started anew begin at 0. */
export function since(before, after) {
  const gone = {};
  for (const [name, value] of Object.entries(after)) gone[name] = Math.max(0, value - (before?.[name] ?? 0));
  return gone;
}

export const sum = (values) => Object.values(values).reduce((total, value) => total + value, 0);

/** Buckets [upper edge or null, count] of the time between two looks. */
export function between(before, after = []) {
  return after.map(([edge, value], place) => [edge, Math.max(0, value - (before?.[place]?.[1] ?? 0))]);
}

export const size = (buckets) => buckets.reduce((total, [, value]) => total + value, 0);

/** Where a share of all lies, straight through its bucket; null when there is nothing. */
export function quantile(buckets, share) {
  let left = size(buckets) * share;
  if (!left) return null;
  let lower = 0;
  for (const [edge, value] of buckets) {
    if (value >= left && value > 0) return edge === null ? lower : lower + ((edge - lower) * left) / value;
    left -= value;
    lower = edge ?? lower;
  }
  return lower;
}

/** Requests as numbers by route. */
export function byRoute(requests) {
  const found = {};
  for (const { route, count } of requests) found[route] = (found[route] ?? 0) + count;
  return found;
}

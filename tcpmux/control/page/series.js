// Lists of values over time, made of others. null breaks a line: nobody knows the value.

export function sum(lists) {
  return lists[0].map((_, i) =>
    lists.some((list) => list[i] === null) ? null : lists.reduce((all, list) => all + list[i], 0),
  );
}

// Each one's part of the sum; null while that is nothing.
export function shares(lists) {
  const totals = lists[0].map((_, i) => lists.reduce((all, list) => all + list[i], 0));
  return lists.map((list) =>
    list.map((value, i) => (value !== null && totals[i] > 0 ? value / totals[i] : null)),
  );
}

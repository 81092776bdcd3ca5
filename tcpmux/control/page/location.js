// The chosen route, in the part of the address that the server does not see.

export function routeHash(name) {
  return `#route=${encodeURIComponent(name)}`;
}

// null if the address names none.
export function routeInLocation() {
  return new URLSearchParams(location.hash.slice(1)).get("route");
}
